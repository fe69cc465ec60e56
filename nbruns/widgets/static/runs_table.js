// The runs table and its position in the page. Python appends this file to the other runs_*.js files.

let counter = 0;

class View {
  constructor(store) {
    this.store = store;
    this.id = `nbruns-runs-${++counter}`;
    this.filters = new Filters(store);
    this.grid = new Grid(store, this.id, () => this.details.close());
    this.details = new Details(store, this.id, () => this.grid.scroll.focus());
    this.notes = element("div", "nbruns-notes", { role: "alert" });
    const main = element("div", "nbruns-main", {}, this.grid.root, this.details.root);
    this.root = element("div", "nbruns nbruns-runs mathjax_ignore tex2jax_ignore", {}, this.filters.root, main, this.notes);
    this.root.addEventListener("focusin", ({ target }) => (this.focused = target));
    this.root.addEventListener("focusout", () => setTimeout(() => !this.root.contains(document.activeElement) && (this.focused = null)));
    this.keep = (event) => this.keepKey(event);
    window.addEventListener("keydown", this.keep, true);
    this.resize = new ResizeObserver(() => this.grid.update());
    this.resize.observe(this.grid.root);
    this.clock = setInterval(() => this.details.tick(), 1000);
    store.views.add(this);
    this.update();
    this.details.show();
  }

  update() {
    this.filters.update();
    this.grid.update();
    const notes = Object.values(this.store.get("_notes") ?? {});
    if (this.store.silent) notes.push("The kernel is not responding. It may be running a cell, or it may have stopped.");
    const wanted = notes.join("\n");
    if (this.notes.textContent !== wanted) this.notes.textContent = wanted;
    this.notes.hidden = !wanted;
  }

  // Keep keys for the table. In command mode JupyterLab handles keys first, whatever has the focus ("x" cuts the
  // cell), unless the target has this attribute. Shortcuts with Ctrl or Cmd still go to JupyterLab.
  keepKey({ target, ctrlKey, metaKey }) {
    if (this.root.contains(target)) target.toggleAttribute("data-lm-suppress-shortcuts", !ctrlKey && !metaKey);
  }

  // Move the view to its current placeholder: JupyterLab may have re-rendered the output around it.
  moveTo(place) {
    const focused = this.focused;
    place.replaceChildren(this.root);
    this.grid.scroll.scrollTop = this.grid.top;
    this.grid.chooser.reopen();
    if (focused && this.root.contains(focused)) focused.focus({ preventScroll: true });
    this.update();
  }

  close() {
    this.store.views.delete(this);
    window.removeEventListener("keydown", this.keep, true);
    this.resize.disconnect();
    clearInterval(this.clock);
  }
}

// A cell's output holds a plain table, which the notebook saves. In pages connected to this model, the live table
// replaces the plain one, again each time JupyterLab re-renders the output.
class Places {
  constructor(store) {
    this.store = store;
    this.selector = `[data-nbruns-table="${CSS.escape(store.get("_place"))}"]`;
    this.views = [];
    this.observer = new MutationObserver((records) => {
      if (records.some(({ target }) => !this.views.some((view) => view.root.contains(target)))) this.settle();
    });
    this.observer.observe(document.body, { childList: true, subtree: true });
    this.settle();
  }

  settle() {
    for (const place of document.querySelectorAll(this.selector)) {
      if (this.views.some((view) => view.root.parentNode === place)) continue;
      const view = this.views.find((view) => !view.root.isConnected) ?? this.another();
      view.plain = [...place.childNodes];
      view.moveTo(place);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.store.watch(), 500); // while an output is moved, it is briefly detached
  }

  another() {
    const view = new View(this.store);
    this.views.push(view);
    return view;
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.timer);
    for (const view of this.views) {
      view.root.replaceWith(...view.plain);
      view.close();
    }
  }
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = new Store(model);
      const places = new Places(store);
      return () => places.close();
    },
    render({ el }) {
      const view = new View(store);
      el.append(view.root);
      requestAnimationFrame(() => store.watch());
      return () => {
        view.close();
        store.watch();
      };
    },
  };
};
