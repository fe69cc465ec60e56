// The live view of a run's transcript. Python renders; this file stores and displays the blocks.
// State of one block: [id, kind, content] or, for code, [id, "code", text, marks, language].
// A message [number, changes, order?] contains new blocks, and splices for changed ones:
// [id, start, drop, text] or, for code, [id, start, drop, text, start, drop, marks]. The last change sets the tip:
// [id, number of characters after the inserted text]; in a new block, those of its closing tags. A message
// [number, text] inserts text at the tip; [number, text, drop, marks] also replaces the last `drop` characters of marks.

const WORDS = /\S+\s*|\s+/g;
const BETWEEN = 40; // milliseconds between two words
const CLOSING_TAGS = /(?:<\/\w+>)*$/;
const splice = (old, start, drop, text) => old.slice(0, start) + text + old.slice(start + drop);

class Store {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.flow = new Flow((text) => this.show(this.grow(text)));
    model.on("change:state", () => this.load(model.get("state")));
    model.on("msg:custom", (message) => this.receive(message));
    this.load(model.get("state"));
    this.ask();
  }

  load(state) {
    const [number, blocks, tip] = state ?? [0, [], [-1, 0]];
    this.seen = number;
    this.tip = tip;
    this.asked = false;
    this.flow.stop();
    this.blocks = new Map(blocks.map((block) => [block[0], block]));
    this.order = [...this.blocks.keys()];
    this.show(this.order);
  }

  // Messages may have been sent before this page was connected: then request the whole state, once.
  receive([number, changes, ...rest]) {
    if (number <= this.seen) return;
    if (number > this.seen + 1) return this.ask();
    this.seen = number;
    this.flow.flush();
    if (typeof changes !== "string") this.show(this.take(changes, ...rest));
    else if (rest.length) this.show(this.grow(changes, ...rest));
    else this.flow.add(changes);
  }

  show(ids) {
    this.views.forEach((view) => view.show(ids));
  }

  grow(text, drop, marks) {
    const [id, tail] = this.tip;
    const block = [...this.blocks.get(id)];
    block[2] = splice(block[2], block[2].length - tail, 0, text);
    if (marks !== undefined) block[3] = splice(block[3], block[3].length - drop, drop, marks);
    this.blocks.set(id, block);
    return [id];
  }

  take(changes, order) {
    changes.forEach((change) => this.change(change));
    if (order) this.arrange(order);
    return order ?? changes.map((change) => change[0]);
  }

  arrange(order) {
    this.order = order;
    this.blocks = new Map(order.map((id) => [id, this.blocks.get(id)]));
  }

  change(change) {
    const [id, start, drop, text, ...marks] = change;
    if (typeof start === "string") {
      this.tip = [id, drop.match(CLOSING_TAGS)[0].length];
      if (!this.blocks.has(id)) this.order.push(id);
      this.blocks.set(id, change);
      return;
    }
    const block = [...this.blocks.get(id)];
    this.tip = [id, block[2].length - start - drop];
    block[2] = splice(block[2], start, drop, text);
    if (marks.length) block[3] = splice(block[3], ...marks);
    this.blocks.set(id, block);
  }

  ask() {
    if (!this.asked) this.model.send({ hello: this.seen });
    this.asked = true;
  }
}

// Slow text arrives a few words at a time: show them one by one until the next message. Show text at once if it arrives
// fast, if the user prefers reduced motion, or if it contains tags: sanitized HTML may be split between words, but not
// within a tag.
class Flow {
  constructor(show) {
    this.put = show;
    this.waiting = [];
    this.last = 0;
  }

  add(html) {
    const now = performance.now();
    const pause = Math.min(now - this.last, 1000);
    this.last = now;
    this.waiting = html.match(WORDS) ?? [html];
    if (pause < 2 * BETWEEN || /[<>"]/.test(html) || matchMedia("(prefers-reduced-motion: reduce)").matches) return this.flush();
    this.each = Math.max(BETWEEN, (0.8 * pause) / this.waiting.length);
    this.next();
  }

  next() {
    this.put(this.waiting.shift());
    this.timer = this.waiting.length ? setTimeout(() => this.next(), this.each) : 0;
  }

  flush() {
    const rest = this.waiting.join("");
    this.stop();
    if (rest) this.put(rest);
  }

  stop() {
    clearTimeout(this.timer);
    this.waiting = [];
  }
}

class View {
  constructor(store, el) {
    this.store = store;
    this.el = el;
    this.nodes = new Map();
    this.follows = true; // whether the reader is at the end
    el.classList.add("nbruns");
    this.bar = element("div", "nbruns-bar");
    this.list = element("div", "nbruns-blocks");
    this.scroll = element("div", "nbruns-scroll", { tabindex: "0", role: "group", "aria-label": "Run transcript" });
    this.scroll.append(this.list);
    this.scroll.addEventListener("scroll", () => this.remember(), { passive: true });
    (this.sizes = new ResizeObserver(() => this.settle())).observe(this.list);
    el.append(this.bar, this.scroll);
    this.bar.append((this.cancel = cancelButton(store.model)));
    this.show(store.order);
  }

  // Does not read the layout: with many views in a page, each read would force a reflow of the whole page.
  show(ids) {
    ids.forEach((id) => this.draw(id, this.store.blocks.get(id)));
    if (this.nodes.size !== this.store.order.length || ids === this.store.order) this.arrange();
    this.el.hidden = !this.store.order.length; // no message has been sent yet
    const asked = this.store.order.filter((id) => this.store.blocks.get(id)?.[1] === "user").length;
    if (asked > (this.asked ?? 0)) this.follows = true; // after sending a message, the user wants to see the answer
    this.asked = asked;
    this.tick();
  }

  // After layout: keep the view scrolled to the end if the reader is there.
  settle() {
    if (this.follows) this.scroll.scrollTop = this.scroll.scrollHeight;
    this.remember();
  }

  // Store the scroll position. Only scrolling up leaves the end, not new text.
  remember() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    if (!clientHeight) return; // detached, so there is no height
    this.follows = scrollHeight - scrollTop - clientHeight < 40 || (this.follows && scrollTop >= this.scrolled);
    this.scrolled = scrollTop;
    this.height = this.el.offsetHeight;
    this.place = this.el.closest(".jp-OutputArea");
  }

  draw(id, block) {
    if (!block) return;
    let node = this.nodes.get(id);
    if (!node) {
      node = element("div", `nbruns-block nbruns-${block[1]}`);
      this.nodes.set(id, node);
      if (block[1] === "head") this.bar.prepend(node);
      else this.list.append(node);
    }
    if (block[1] === "code") drawCode(node, block);
    else morph(node, block[2]);
  }

  arrange() {
    for (const [id, node] of this.nodes) if (!this.store.blocks.has(id)) {
      node.remove();
      this.nodes.delete(id);
    }
    const wanted = this.store.order.map((id) => this.nodes.get(id)).filter((node) => node && node.parentNode === this.list);
    wanted.forEach((node, place) => {
      if (this.list.children[place] !== node) this.list.insertBefore(node, this.list.children[place] ?? null);
    });
  }

  tick() {
    // Otherwise JupyterLab handles Enter and letters, even if a button or a card has the focus.
    (this.el.closest(".nbruns-view") ?? this.el).setAttribute("data-lm-suppress-shortcuts", "");
    const time = this.bar.querySelector("[data-since]");
    if (time) time.textContent = duration(Math.floor(Date.now() / 1000) - Number(time.dataset.since));
  }
}

// A footnote expands its source in the same transcript, also in saved HTML, where JupyterLab would only scroll to it.
// Without this script, browsers expand the target of a link themselves.
function openSource(event) {
  const link = event.composedPath()[0].closest?.('.nbruns a[href^="#nbruns-"]'); // also in a shadow root
  const id = link && CSS.escape(link.getAttribute("href").slice(1));
  const source = link?.closest(".nbruns").querySelector(`[id="${id}"], [data-jupyter-id="${id}"]`);
  if (!source) return;
  event.preventDefault();
  event.stopPropagation();
  const details = source.closest("details.nbruns-source");
  if (details) details.open = true;
  (details ?? source).scrollIntoView({ block: "nearest" });
}

// See composer.js: it receives clicks from here even if the host renders the two separately.
function meetComposer(view, el) {
  document.nbrunsMeetings ??= {};
  const place = (document.nbrunsMeetings[view] ??= document.createElement("div"));
  const show = () => ["nbruns-can-act", "nbruns-can-insert"].forEach((name) => el.classList.toggle(name, place.classList.contains(name)));
  const pass = (event) => place.dispatchEvent(new CustomEvent("click", { detail: event.target }));
  const changes = new MutationObserver(show);
  changes.observe(place, { attributeFilter: ["class"] });
  el.addEventListener("click", pass);
  show();
  return () => {
    changes.disconnect();
    el.removeEventListener("click", pass);
  };
}

// Each view loads this file again, but the page needs only one listener.
function openSources() {
  if (document.nbrunsOpensSources) return;
  document.nbrunsOpensSources = true;
  document.addEventListener("click", openSource, true);
}

// When the run has ended, static HTML replaces the view: keep the last visible line in place.
function stayWhenReplaced(view) {
  return () => {
    if (!view.place) return;
    let frames = 30;
    const look = () => {
      const saved = view.place.querySelector(":scope .nbruns-saved:not(.nbruns-copy *)");
      if (saved) stay(view, saved);
      else if (frames--) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  };
}

function stay({ scrolled, follows, height, formWent }, saved) {
  const frame = scrollable(saved);
  const port = frame === document.scrollingElement ? { top: 0, bottom: innerHeight } : frame.getBoundingClientRect();
  const { top, bottom } = saved.getBoundingClientRect();
  let end = top + height;
  if (formWent) end = Math.min(Math.max(end, port.top + Math.min(height, port.bottom - port.top)), port.bottom);
  else if (end < port.top || top > port.bottom) return;
  frame.scrollTop += (follows ? bottom : top + scrolled + height) - end;
}

function scrollable(node) {
  while ((node = node.parentElement) && node !== document.body)
    if (node.scrollHeight > node.clientHeight && /auto|scroll/.test(getComputedStyle(node).overflowY)) return node;
  return document.scrollingElement;
}

function showForm(model, el) {
  const show = () => el.classList.toggle("nbruns-with-form", model.get("has_form"));
  model.on("change:has_form", show);
  show();
  return () => model.off("change:has_form", show);
}

// The notebook saves a copy for use without the kernel; hide it while there is a live view.
function hideCopies(mark) {
  const style = document.createElement("style");
  style.textContent = mark && `.${mark}, .jp-OutputArea-child:has(.nbruns-copy.${mark}) { display: none; }`;
  document.head.append(style);
  return () => style.remove();
}

// When the form is removed, the page shrinks. Scroll the view into sight if the user has just submitted the form.
function stayWhenFormGoes(model, view) {
  const { el } = view;
  const stay = () => {
    const form = el.nextElementSibling?.getBoundingClientRect();
    if (model.get("has_form") || !form || form.bottom < 0 || form.top > innerHeight) return;
    view.formWent = true;
    let frames = 0;
    const look = () => {
      if (el.nextElementSibling && frames++ < 60) return requestAnimationFrame(look);
      requestAnimationFrame(show);
    };
    look();
  };
  const show = () => {
    if (!el.isConnected) return; // the run has ended as well
    el.scrollIntoView({ block: "nearest" });
    view.formWent = false;
  };
  model.on("change:has_form", stay);
  return () => model.off("change:has_form", stay);
}

function cancelButton(model) {
  const button = element("button", "nbruns-cancel", { type: "button" });
  const show = () => {
    button.hidden = !model.get("cancellable");
    button.disabled = false;
    button.textContent = "Cancel run";
  };
  button.addEventListener("click", () => {
    button.disabled = true;
    button.textContent = "Cancelling…";
    model.send({ cancel: true });
  });
  model.on("change:cancellable", show);
  model.on("change:refusals", show); // the server rejected it: enable the button again
  show();
  return button;
}

// Code: one node per run of characters of one color; unchanged nodes are kept.
function drawCode(node, [, , text, marks, language]) {
  if (!node.firstChild) node.append(codeFrame(language));
  const code = node.querySelector("code");
  const runs = decode(text, marks ?? "");
  const shown = code.runs ?? [];
  let same = 0;
  while (same < shown.length && same < runs.length && shown[same].kind === runs[same].kind && shown[same].text === runs[same].text) same++;
  while (code.childNodes.length > same) code.lastChild.remove();
  code.append(...runs.slice(same).map(runNode));
  code.runs = runs;
}

function codeFrame(language) {
  const frame = document.createDocumentFragment();
  const pre = element("pre");
  if (language) pre.dataset.language = language;
  pre.append(element("code"));
  const copy = element("button", "nbruns-copy", { type: "button" });
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(pre.textContent);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  frame.append(pre, copy);
  return frame;
}

function decode(text, marks) {
  const runs = [];
  let start = 0;
  for (const [, kind, length] of marks.matchAll(/([a-z_])(\d+)/g)) {
    runs.push({ kind, text: text.slice(start, start + Number(length)) });
    start += Number(length);
  }
  if (start < text.length) runs.push({ kind: "_", text: text.slice(start) });
  return runs;
}

function runNode({ kind, text }) {
  const node = kind === "_" ? document.createTextNode("") : element("span", `nbruns-${kind}`);
  node.textContent = text;
  return node;
}

// Set the content of `node` to `html` (sanitized in Python), changing only what differs, so that selections, folded
// cards and scroll positions are kept.
function morph(node, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  morphChildren(node, template.content);
}

function morphChildren(node, fresh) {
  const wanted = [...fresh.childNodes];
  wanted.forEach((child, place) => {
    const old = node.childNodes[place];
    if (!old) node.append(child);
    else if (old.isEqualNode(child)) return;
    else if (old.nodeType === 3 && child.nodeType === 3) old.data = child.data;
    else if (old.nodeName !== child.nodeName || old.nodeType !== 1) old.replaceWith(child);
    else {
      morphAttributes(old, child);
      morphChildren(old, child);
    }
  });
  while (node.childNodes.length > wanted.length) node.lastChild.remove();
}

function morphAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
}

// Same as `duration` in nbruns/widgets/html.py; tests/widgets/durations.json has test cases for both.
function duration(elapsed) {
  const two = (n) => String(n).padStart(2, "0");
  const seconds = Math.floor(Math.max(0, elapsed));
  if (seconds < 1) return "<1 s";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
}

function element(tag, name = "", attributes = {}) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  return node;
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      openSources();
      store = new Store(model);
    },
    render({ model, el }) {
      const view = new View(store, el);
      const ends = [
        stayWhenFormGoes(model, view),
        stayWhenReplaced(view),
        showForm(model, el),
        hideCopies(model.get("copies")),
        meetComposer(model.get("copies"), el),
      ];
      store.views.add(view);
      const clock = setInterval(() => view.tick(), 1000);
      return () => {
        clearInterval(clock);
        view.sizes.disconnect();
        ends.forEach((end) => end());
        store.views.delete(view);
      };
    },
  };
};
