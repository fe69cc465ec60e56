// The form's title and countdown, and the ARIA attributes that link texts to controls for screen readers:
// ipywidgets supports labels, but not descriptions, groups or invalid states.

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
  const name = card.querySelector(".nbruns-name");
  set(card, "role", "group");
  if (name) set(card, "aria-labelledby", named(name));
  const output = card.querySelector(":scope > .nbruns-output > .nbruns-field:not(.nbruns-file-input) > textarea");
  const told = child(card, ".nbruns-told");
  if (output && told) {
    set(output, "aria-describedby", named(told));
    set(output, "aria-invalid", String(told.textContent.includes("unanswered")));
  }
  for (const choice of card.querySelectorAll(":scope > .widget-radio")) {
    const label = choice.querySelector(".widget-label");
    set(choice, "role", "radiogroup");
    if (label) set(choice, "aria-labelledby", named(label));
    if (told) set(choice, "aria-describedby", named(told));
    // Radio buttons need a common name, or arrow keys don't work.
    for (const radio of choice.querySelectorAll("input")) set(radio, "name", named(choice));
  }
}

function bind(form) {
  form.querySelectorAll(".nbruns-field").forEach(bindField);
  form.querySelectorAll(".nbruns-card").forEach(bindCard);
  // These controls use keys (arrows, Space, letters) that are JupyterLab shortcuts elsewhere.
  for (const control of form.querySelectorAll("select, button, input:is([type=radio], [type=checkbox], [type=file])"))
    set(control, "data-lm-suppress-shortcuts", "true");
  for (const button of form.querySelectorAll(".nbruns-add, .nbruns-remove")) set(button, "aria-label", button.title);
}

function firstWrong(form) {
  const invalid = [...form.querySelectorAll('[aria-invalid="true"]:enabled')];
  const open = [...form.querySelectorAll('.nbruns-card:has(> .nbruns-told [role="alert"]) > .widget-radio input')];
  return [...invalid, ...open].find((control) => control.offsetParent);
}

export default {
  render({ model, el }) {
    el.classList.add("nbruns-form-head");
    const title = document.createElement("strong");
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
      title.textContent = model.get("title");
      left.textContent = expires == null ? "" : seconds ? `expires in ${countdown(seconds)}` : "expired";
      left.classList.toggle("nbruns-soon", expires != null && seconds < 60);
    };
    const find = () => {
      form = el.closest(".nbruns-form");
      if (!form) return void (frame = requestAnimationFrame(find)); // not yet in the page
      set(form, "role", "group");
      set(form, "aria-labelledby", named(title));
      bind(form);
      observer.observe(form, { childList: true, subtree: true, characterData: true });
    };
    model.on("change:expires_at", show);
    model.on("change:title", show);
    model.on("change:refused", () => requestAnimationFrame(() => form && firstWrong(form)?.focus()));
    const clock = setInterval(show, 1000);
    show();
    find();
    return () => {
      clearInterval(clock);
      cancelAnimationFrame(frame);
      observer.disconnect();
    };
  },
};
