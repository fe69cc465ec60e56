// A file for an output. One that is too big is refused here: it would not get through to the kernel.

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
      say(model.get("told") || `A text file of at most ${model.get("limit").toLocaleString("en")} bytes.`);
      if (problem) say(problem, true);
    };
    input.onchange = async () => {
      const [file] = input.files;
      if (!file) return; // the dialogue was left: what was there stays
      if (file.size > model.get("limit")) {
        const [size, limit] = [file.size, model.get("limit")].map((n) => n.toLocaleString("en"));
        return show(`${file.name} has ${size} bytes; the limit is ${limit}.`);
      }
      model.send({ name: file.name }, undefined, [await file.arrayBuffer()]);
      show();
    };
    for (const name of ["label", "told", "problem", "disabled"]) model.on(`change:${name}`, () => show());
    show();
  },
};
