// A file input for an output. Files over the limit are rejected here, because they could not be sent to the kernel.

let made = 0;

export default {
  render({ model, el }) {
    const id = `nbruns-file-${Date.now()}-${made++}`;
    const label = Object.assign(document.createElement("label"), { htmlFor: id, className: "nbruns-label" });
    const input = Object.assign(document.createElement("input"), { id, type: "file" });
    const told = Object.assign(document.createElement("p"), { id: `${id}-told`, className: "nbruns-told" });
    el.classList.add("nbruns-field", "nbruns-file-input");
    input.setAttribute("aria-describedby", told.id);
    told.setAttribute("aria-live", "polite");
    el.append(label, input, told);

    const say = (words, wrong) => {
      const line = Object.assign(document.createElement("span"), { textContent: words });
      if (wrong) line.setAttribute("role", "alert");
      told.append(line);
    };
    const show = (tooBig) => {
      const problem = tooBig || model.get("problem");
      label.textContent = model.get("label");
      input.disabled = model.get("disabled");
      input.setAttribute("aria-invalid", String(Boolean(problem)));
      told.replaceChildren();
      say(model.get("told") || `Text file, up to ${model.get("limit").toLocaleString("en")} bytes`);
      if (problem) say(problem, true);
    };
    input.onchange = async () => {
      const [file] = input.files;
      if (!file) return; // the dialog was canceled: keep the current file
      if (file.size > model.get("limit")) {
        const [size, limit] = [file.size, model.get("limit")].map((n) => n.toLocaleString("en"));
        return show(`${file.name} is too large: ${size} bytes. The limit is ${limit} bytes.`);
      }
      model.send({ name: file.name }, undefined, [await file.arrayBuffer()]);
      show();
    };
    for (const name of ["label", "told", "problem", "disabled"]) model.on(`change:${name}`, () => show());
    show();
  },
};
