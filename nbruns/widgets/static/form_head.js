// The form's title, and how long it can still be submitted.

function countdown(seconds) {
  const two = (n) => String(n).padStart(2, "0");
  return `${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
}

export default {
  render({ model, el }) {
    el.classList.add("nbruns-form-head");
    const title = document.createElement("strong");
    const left = document.createElement("span");
    left.className = "nbruns-left";
    left.setAttribute("role", "timer");
    el.append(title, left);
    const show = () => {
      const expires = model.get("expires_at");
      const seconds = Math.max(0, Math.round((expires ?? 0) - Date.now() / 1000));
      title.textContent = model.get("title");
      left.textContent = expires == null ? "" : seconds ? `expires in ${countdown(seconds)}` : "expired";
      left.classList.toggle("nbruns-soon", expires != null && seconds < 60);
    };
    model.on("change:expires_at", show);
    model.on("change:title", show);
    const clock = setInterval(show, 1000);
    show();
    return () => clearInterval(clock);
  },
};
