// The line at the end of a form: the number of calls left, and the time left. Also features that ipywidgets lacks:
// the ARIA attributes that link texts to controls, groups, pressed and invalid states, focus, and Ctrl+Enter.

let made = 0;

function countdown(seconds) {
  const two = (n) => String(n).padStart(2, "0");
  return `${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
}

function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value); // avoids an endless loop of the observer
}

function named(element) {
  element.id ||= `nbruns-${Date.now()}-${made++}`;
  return element.id;
}

function child(element, selector) {
  return element.querySelector(`:scope > ${selector}`);
}

function bindField(field) {
  const told = child(field, ".nbruns-told");
  const legend = child(field, ".nbruns-legend");
  if (!told) return;
  const wrong = Boolean(told.querySelector('[role="alert"]'));
  if (legend) {
    set(field, "role", "group");
    if (legend.textContent.trim()) set(field, "aria-labelledby", named(legend));
    set(field, "aria-describedby", named(told));
    return;
  }
  for (const control of field.querySelectorAll("input, select, textarea")) {
    set(control, "aria-describedby", named(told));
    set(control, "aria-invalid", String(wrong));
  }
}

function bindCard(card) {
  const names = card.querySelectorAll(".nbruns-name, .nbruns-place");
  set(card, "role", "group");
  if (names.length) set(card, "aria-labelledby", [...names].map(named).join(" "));
  const output = card.querySelector(":scope > .nbruns-output > .nbruns-field:not(.nbruns-file-input) > textarea");
  const told = child(card, ".nbruns-told");
  if (output && told) {
    set(output, "aria-describedby", named(told));
    set(output, "aria-invalid", String(told.textContent.includes("unanswered")));
  }
  for (const choice of card.querySelectorAll(".nbruns-choice")) {
    const label = choice.querySelector(".widget-label");
    set(choice, "role", "group");
    if (label) set(choice, "aria-labelledby", named(label));
    if (told) set(choice, "aria-describedby", named(told));
  }
  if (card.wantsFocus) focusEditor(card);
}

function focusEditor(card) {
  const controls = card.querySelectorAll(":scope > .nbruns-output :is(input, textarea, .nbruns-field select, .nbruns-add)");
  const control = [...controls].find((control) => control.offsetParent);
  if (!control) return; // not open yet: bindCard runs again later
  card.wantsFocus = false;
  control.focus();
}

// Grow the text area with its content, for browsers without `field-sizing`.
function grow(text) {
  if (CSS.supports("field-sizing", "content") || text.scrollHeight <= text.clientHeight) return;
  text.style.height = `${text.scrollHeight + 2}px`;
}

function bind(form) {
  form.querySelectorAll(".nbruns-field").forEach(bindField);
  form.querySelectorAll(".nbruns-card").forEach(bindCard);
  form.querySelectorAll(".nbruns-output textarea").forEach(grow);
  for (const button of form.querySelectorAll(".widget-toggle-button")) set(button, "aria-pressed", String(button.matches(".mod-active")));
  // The accessible names of one-word buttons include what the button is for.
  for (const button of form.querySelectorAll("button:is(.nbruns-add, .nbruns-remove, .nbruns-run, .nbruns-quiet)"))
    if (!button.textContent.includes("…")) set(button, "aria-label", button.title);
}

// The first control to correct. In each card, invalid controls come first.
function firstWrong(form) {
  const visible = (control) => control.offsetParent;
  for (const card of form.querySelectorAll(".nbruns-card")) {
    const invalid = [...card.querySelectorAll('[aria-invalid="true"]:enabled')].find(visible);
    if (invalid) return invalid;
    const open = card.querySelector(":scope > .nbruns-told [role='alert']");
    const first = [...card.querySelectorAll(".nbruns-choice button, .nbruns-run")].find(visible);
    if (open && first) return first;
  }
}

// Notify the kernel when it has handled all input. The two counters are those with which ipywidgets delays changes. A
// front end without them doesn't delay any.
async function settle(model, { settle, form }) {
  const all = (model) => [model, ...(model.get("children") ?? []).flatMap(all)];
  const controls = all(await model.widget_manager.get_model(form));
  const isUnderWay = (control) => control._pending_msgs > 0 || control._msg_buffer;
  for (let tries = 0; controls.some(isUnderWay) && tries < 200; tries++) await new Promise((done) => setTimeout(done, 20));
  model.send({ settled: settle });
}

export default {
  render({ model, el }) {
    el.classList.add("nbruns-form-status");
    const title = document.createElement("strong");
    title.setAttribute("role", "status");
    const left = document.createElement("span");
    left.className = "nbruns-left";
    left.setAttribute("role", "timer");
    el.append(title, left);
    let form = null;
    let frame = 0;
    const observer = new MutationObserver(() => bind(form));
    const show = () => {
      const expires = model.get("expires_at");
      const seconds = Math.max(0, Math.round((expires ?? 0) - Date.now() / 1000));
      if (title.textContent !== model.get("title")) title.textContent = model.get("title");
      left.textContent = expires == null ? "" : seconds ? `expires in ${countdown(seconds)}` : "expired";
      left.classList.toggle("nbruns-soon", expires != null && seconds < 60);
    };
    const onKey = (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      form.querySelector(".nbruns-submit")?.click();
    };
    const onClick = ({ target }) => {
      const button = target.closest(".nbruns-enter, .nbruns-actions .widget-toggle-button:not(.mod-active)");
      if (button) button.closest(".nbruns-card").wantsFocus = true;
    };
    const find = () => {
      form = el.closest(".nbruns-form");
      if (!form) return void (frame = requestAnimationFrame(find)); // not yet in the page
      set(form, "role", "group");
      set(form, "aria-label", model.get("label"));
      // Keys that JupyterLab would handle as shortcuts: Ctrl+Enter, and arrows, Space and letters on buttons.
      set(form, "data-lm-suppress-shortcuts", "true");
      form.addEventListener("keydown", onKey, true); // capture, because text controls of ipywidgets stop all key events
      form.addEventListener("click", onClick, true);
      bind(form);
      const attributes = { attributes: true, attributeFilter: ["class", "style"] };
      observer.observe(form, { childList: true, subtree: true, characterData: true, ...attributes });
      model.send({ hello: true });
    };
    model.on("change:expires_at", show);
    model.on("change:title", show);
    model.on("change:refused", () => requestAnimationFrame(() => form && firstWrong(form)?.focus()));
    model.on("msg:custom", (message) => message.settle && settle(model, message));
    const clock = setInterval(show, 1000);
    show();
    find();
    return () => {
      clearInterval(clock);
      cancelAnimationFrame(frame);
      observer.disconnect();
      form?.removeEventListener("keydown", onKey, true);
      form?.removeEventListener("click", onClick, true);
    };
  },
};
