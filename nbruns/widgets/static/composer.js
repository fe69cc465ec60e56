// The composer below a run. It keeps the typed message until Python has accepted it.
// To Python: { file: key } with a buffer (one slice of a file), { remove: key }, { send: { text, files, edits, model } },
// { stop: true }, { models: true }, { download: id of a file },
// { output: id of a call }. From Python: { edit: id of a call, text, name } to edit its output;
// { slice: id, ended, name } with a slice of a file as its buffer; a file that is refused has no name.

const SLICE = 1 << 20;
const MAX_BYTES = 64 * SLICE;
const MAX_FILES = 10;

function element(tag, name = "", attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  node.append(...children);
  return node;
}

const size = (bytes) => (bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

class Composer {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.files = [];
    this.coming = {}; // by file id: the slices received so far, and the button that requested the file
    this.edits = "";
    el.classList.add("nbruns-composer");
    el.setAttribute("data-lm-suppress-shortcuts", "");
    this.text = element("textarea", "", { rows: 1, placeholder: "Reply …", "aria-label": "Message" });
    this.chips = element("div", "nbruns-chips");
    this.note = element("div", "nbruns-edits", { hidden: "" });
    this.problem = element("p", "nbruns-problem", { role: "alert" });
    this.picker = element("input", "", { type: "file", multiple: "", hidden: "", tabindex: "-1", "aria-hidden": "true" });
    this.attach = element("button", "nbruns-attach", { type: "button", "aria-label": "Attach files", title: "Attach files (or drop them here)" }, "+");
    this.models = element("select", "", { "aria-label": "Model", title: "The model that answers" });
    this.send = element("button", "nbruns-send", { type: "button" });
    const row = element("div", "nbruns-composer-row", {}, this.attach, this.text, this.models, this.send);
    el.append(this.note, this.chips, row, this.picker, this.problem);
    this.listen();
    this.show();
    this.fit();
  }

  listen() {
    const { model, el } = this;
    this.ends = [];
    const on = (name, handler) => {
      model.on(name, handler);
      this.ends.push(() => model.off(name, handler));
    };
    for (const name of ["busy", "hidden", "problem", "models", "model"]) on(`change:${name}`, () => this.show());
    on("change:sent", () => this.empty());
    on("msg:custom", (message, buffers) => {
      if (message.edit) this.edit(message.edit, message.text, `Changes the output of ${message.name}`);
      else this.save(message, buffers);
    });
    this.text.addEventListener("input", () => this.changed());
    // JupyterLab would run the cell, or leave it.
    el.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape" && this.edits) this.edit("", "");
      if (event.target !== this.text || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!model.get("busy")) this.submit();
    });
    this.send.addEventListener("click", () => (model.get("busy") ? this.stop() : this.submit()));
    this.attach.addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => {
      this.add([...this.picker.files]);
      this.picker.value = "";
    });
    this.text.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) event.preventDefault();
      this.add(files);
    });
    const over = (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      el.classList.toggle("nbruns-drop", event.type === "dragover");
      if (event.type === "drop") this.add([...event.dataTransfer.files]);
    };
    for (const name of ["dragover", "dragleave", "drop"]) el.addEventListener(name, over);
    const ask = () => model.get("models").length || model.send({ models: true });
    this.models.addEventListener("pointerdown", ask);
    this.models.addEventListener("focus", ask);
    this.models.addEventListener("change", () => (this.chosen = this.models.value));
    this.act = (event) => this.clicked(event);
    requestAnimationFrame(() => this.listenAbove(60));
  }

  // After the run has ended, the transcript above is in another output. Its buttons need this element, which is rendered
  // before it is in the document.
  listenAbove(frames) {
    if (this.ended) return;
    if (!this.el.isConnected) return frames && requestAnimationFrame(() => this.listenAbove(frames - 1));
    this.area = this.el.closest(".jp-OutputArea") ?? this.el.closest(".nbruns-view") ?? meeting(this.model.get("view"));
    this.area.addEventListener("click", this.act);
    this.area.classList.add("nbruns-can-insert");
    this.fit();
    this.show();
  }

  end() {
    this.ended = true;
    this.ends.forEach((end) => end());
    this.area?.removeEventListener("click", this.act);
    this.area?.classList.remove("nbruns-can-act", "nbruns-can-insert");
  }

  clicked({ target, detail }) {
    if (detail instanceof Element) target = detail; // forwarded by the transcript

    // The view moves to another output when its run has ended. Some front ends don't report that this one was removed.
    if (!this.el.isConnected) return this.area.removeEventListener("click", this.act);
    const insert = target.closest?.("[data-nbruns-insert]");
    if (insert) return insertCell(insert, insert.parentNode.nextElementSibling.innerText);
    const file = target.closest?.("[data-nbruns-file]");
    if (file) return this.download(file);
    const output = target.closest?.("[data-nbruns-output]");
    if (output && !this.model.get("busy")) return this.model.send({ output: output.dataset.nbrunsOutput });
    const button = target.closest?.("[data-nbruns-edit]");
    if (!button || this.model.get("busy")) return;
    const { nbrunsEdit, nbrunsText } = button.dataset;
    if (button.dataset.nbrunsAgain !== undefined) {
      this.edits = nbrunsEdit;
      this.post(nbrunsText);
    } else this.edit(nbrunsEdit, nbrunsText);
  }

  download(button) {
    const id = button.dataset.nbrunsFile;
    if (this.coming[id]) return;
    this.coming[id] = { slices: [], button };
    button.classList.add("nbruns-coming");
    this.model.send({ download: id });
  }

  // Other pages of the same view receive the file too. Only the one that requested it saves it.
  save({ slice: id, name, ended }, buffers) {
    const file = this.coming[id];
    if (!file) return;
    file.slices.push(...(buffers ?? []));
    if (!ended) return;
    delete this.coming[id];
    file.button.classList.remove("nbruns-coming");
    if (name === undefined) return; // the file was refused
    const address = URL.createObjectURL(new Blob(file.slices));
    element("a", "", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  edit(id, text, what = "Edits the question") {
    this.edits = id;
    this.text.value = text;
    this.note.replaceChildren();
    if (id) {
      const cancel = element("button", "", { type: "button" }, "Don’t edit");
      cancel.addEventListener("click", () => this.edit("", ""));
      this.note.append(element("span", "", {}, `${what} in a new thread. This conversation stays as it is.`), cancel);
    }
    this.note.hidden = !id;
    this.changed();
    if (id) {
      this.text.focus();
      this.el.scrollIntoView({ block: "nearest" });
    }
  }

  changed() {
    this.fit();
    this.show();
  }

  fit() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight + 2, 240)}px`;
  }

  add(files) {
    this.refused = "";
    for (const file of files) {
      const total = this.files.reduce((sum, each) => sum + each.file.size, file.size);
      if (total > MAX_BYTES) this.refused = `${file.name} is too large: files of a message have at most ${size(MAX_BYTES)} together.`;
      else if (this.files.length >= MAX_FILES) this.refused = `A message has at most ${MAX_FILES} files.`;
      else this.files.push({ file, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` });
    }
    this.show();
  }

  drop(entry) {
    this.files = this.files.filter((each) => each !== entry);
    this.model.send({ remove: entry.key });
    this.show();
  }

  async submit() {
    const text = this.text.value.trim();
    if (text || this.files.length) await this.post(text);
  }

  async post(text) {
    if (this.posting) return;
    this.posting = true;
    this.refused = "";
    this.show();
    try {
      for (const { file, key, done } of this.files) {
        if (done) continue; // already uploaded by an attempt that was refused
        for (let at = 0; at < Math.max(file.size, 1); at += SLICE)
          this.model.send({ file: key }, undefined, [await file.slice(at, at + SLICE).arrayBuffer()]);
      }
      this.files.forEach((each) => (each.done = true));
      const files = this.files.map(({ file, key }) => ({ key, name: file.name }));
      const other = this.chosen && this.chosen !== this.model.get("model") ? this.chosen : null;
      this.model.send({ send: { text, files, edits: this.edits || null, model: other } });
    } catch (error) {
      this.refused = `A file can't be read: ${error.message}`;
      this.posting = false;
    }
    this.show();
  }

  stop() {
    this.stopping = true;
    this.model.send({ stop: true });
    this.show();
  }

  empty() {
    this.files = [];
    this.posting = false;
    this.edit("", "");
  }

  show() {
    const { model } = this;
    const busy = model.get("busy");
    const problem = this.refused || model.get("problem");
    if (model.get("problem")) this.posting = false;
    if (!busy) this.stopping = false;
    this.el.classList.toggle("nbruns-composer-hidden", model.get("hidden"));
    this.area?.classList.toggle("nbruns-can-act", !busy && !model.get("hidden"));
    this.send.textContent = busy ? (this.stopping ? "Stopping …" : "Stop") : this.posting ? "Sending …" : "Send";
    this.send.disabled = busy ? this.stopping : this.posting || !(this.text.value.trim() || this.files.length);
    this.send.title = busy ? "Cancel the run" : "Send (Enter); Shift+Enter for a new line";
    this.problem.textContent = problem;
    this.problem.hidden = !problem;
    this.chips.replaceChildren(...this.files.map((entry) => this.chip(entry)));
    this.chips.hidden = !this.files.length;
    const chosen = this.chosen || model.get("model");
    const names = [...new Set([model.get("model"), ...model.get("models")])].filter(Boolean);
    this.models.replaceChildren(...names.map((name) => element("option", "", { value: name }, name)));
    this.models.value = chosen;
    this.models.hidden = !names.length;
  }

  chip(entry) {
    const remove = element("button", "", { type: "button", "aria-label": `Remove ${entry.file.name}` }, "×");
    remove.addEventListener("click", () => this.drop(entry));
    return element("span", "nbruns-chip", {}, element("span", "", {}, entry.file.name), ` ${size(entry.file.size)}`, remove);
  }
}

// Connects the transcript and the composer of a view in hosts that render them separately. It replaces the area around
// both, for its classes and click events. The same function is in transcript.js.
function meeting(view) {
  document.nbrunsMeetings ??= {};
  return (document.nbrunsMeetings[view] ??= document.createElement("div"));
}

// Insert code into a new cell below by simulating user input, because JupyterLab and Notebook 7 have no other interface
// for pages. In other front ends, copy the code.
async function insertCell(button, code) {
  const words = button.textContent;
  const say = (said) => {
    button.textContent = said;
    setTimeout(() => (button.textContent = words), 2000);
  };
  const cell = button.closest(".jp-CodeCell");
  const notebook = cell?.closest(".jp-Notebook");
  if (notebook) {
    // Select the cell, then press b in it, because JupyterLab handles keys of the focused element.
    const prompt = cell.querySelector(".jp-InputPrompt") ?? cell;
    for (const type of ["mousedown", "mouseup", "click"]) prompt.dispatchEvent(new MouseEvent(type, { bubbles: true, cancelable: true, button: 0 }));
    if (!cell.hasAttribute("tabindex")) cell.setAttribute("tabindex", "-1");
    cell.focus({ preventScroll: true });
    press(cell, "b", 66);
    for (let frames = 30; frames; frames--) {
      await new Promise(requestAnimationFrame);
      const added = cell.nextElementSibling;
      const editor = added?.querySelector(".cm-content");
      if (editor && added.classList.contains("jp-mod-active") && !editor.textContent.trim()) {
        editor.focus();
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", code);
        editor.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
        return say("Inserted");
      }
    }
  }
  await navigator.clipboard.writeText(code);
  say("Copied: paste it into a cell");
}

function press(node, key, keyCode) {
  const event = new KeyboardEvent("keydown", { key, code: key.length === 1 ? `Key${key.toUpperCase()}` : key, bubbles: true, cancelable: true });
  Object.defineProperty(event, "keyCode", { value: keyCode });
  node.dispatchEvent(event);
}

export default {
  render({ model, el }) {
    const composer = new Composer(model, el);
    return () => composer.end();
  },
};
