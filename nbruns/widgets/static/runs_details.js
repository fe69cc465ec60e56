// The details of the open run, in tabs. Python renders and sanitizes the HTML.

class Details {
  constructor(store, id, onClose) {
    this.store = store;
    this.id = `${id}-details`;
    this.onClose = onClose;
    this.section = "Transcript";
    this.head = element("div", "nbruns-head");
    const close = element("button", "nbruns-close", { type: "button", "aria-label": "Close details" }, "Close");
    close.addEventListener("click", () => this.close());
    this.bar = element("div", "nbruns-bar", {}, this.head, close);
    this.tabs = element("div", "nbruns-tabs", { role: "tablist", "aria-label": "Sections" });
    this.tabs.addEventListener("keydown", (event) => this.key(event));
    this.panel = element("div", "nbruns-panel", { role: "tabpanel", id: `${this.id}-panel`, tabindex: "0" });
    this.root = element("section", "nbruns-details", { "aria-label": "Run details" }, this.bar, this.tabs, this.panel);
    this.root.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.root.hidden = true;
  }

  close() {
    if (this.root.hidden) return;
    this.store.model.send({ open: "" });
    this.onClose();
  }

  show() {
    const details = this.store.get("_details") ?? {};
    this.root.hidden = !details.id;
    this.root.setAttribute("aria-busy", String(details.state === "loading"));
    const sections = new Map(details.sections ?? []);
    this.tabs.hidden = !sections.size;
    if (!details.id) return;
    if (sections.size) setHtml(this.head, details.head);
    else this.head.replaceChildren(element("span", "nbruns-id", {}, details.id));
    const section = sections.has(this.section) ? this.section : [...sections.keys()][0];
    if (sections.size) this.showTabs([...sections.keys()], section);
    const same = this.shown === `${details.id} ${section}`;
    const top = same ? this.panel.scrollTop : 0;
    if (sections.size) setHtml(this.panel, `<div class="nbruns-blocks">${sections.get(section)}</div>`);
    else this.panel.replaceChildren(element("p", `nbruns-told nbruns-${details.state}`, {}, details.state === "error" ? details.words : "Loading…"));
    this.panel.scrollTop = top;
    this.shown = `${details.id} ${section}`;
    this.tick();
  }

  showTabs(names, section) {
    if ([...this.tabs.children].map((tab) => tab.textContent).join() !== names.join()) this.tabs.replaceChildren(...names.map((name) => this.tab(name)));
    for (const tab of this.tabs.children) {
      const selected = tab.textContent === section;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      if (selected) this.panel.setAttribute("aria-labelledby", tab.id);
    }
  }

  tab(name) {
    const tab = element("button", "nbruns-tab", { type: "button", role: "tab", id: `${this.id}-${name.replace(" ", "-")}`, "aria-controls": this.panel.id }, name);
    tab.addEventListener("click", () => this.choose(tab));
    return tab;
  }

  choose(tab) {
    this.section = tab.textContent;
    this.show();
    tab.focus();
  }

  key(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const tabs = [...this.tabs.children];
    const now = tabs.findIndex((tab) => tab.textContent === this.section);
    this.choose(tabs[(now + by + tabs.length) % tabs.length]);
    event.preventDefault();
  }

  tick() {
    for (const time of this.head.querySelectorAll("[data-since]")) {
      time.textContent = `${number(Math.max(0, Math.round(Date.now() / 1000 - Number(time.dataset.since))))} s`;
    }
  }
}

function setHtml(node, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  node.replaceChildren(template.content);
}
