// Runs before the first paint, so that the page does not flash in the other colours.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => localStorage.getItem("baton-theme") || "system";
  const apply = () => {
    const wanted = kept();
    root.dataset.theme = wanted === "system" ? (system.matches ? "dark" : "light") : wanted;
    root.dispatchEvent(new Event("baton-theme"));
  };
  system.addEventListener("change", apply);
  window.batonTheme = {
    kept,
    next() {
      const order = ["system", "light", "dark"];
      localStorage.setItem("baton-theme", order[(order.indexOf(kept()) + 1) % order.length]);
      apply();
    },
  };
  apply();
})();
