// Tells people of mistakes of the page itself, also of modules that do not load. A plain script: it runs before them.
(() => {
  const show = (text) => {
    const place = document.getElementById("mistake");
    if (place) {
      place.textContent = text;
      place.hidden = false;
    }
  };
  const tell = (what) => show(`The page made a mistake: ${what}. Reload it; if that does not help, the browser's console says more.`);
  window.addEventListener("error", (event) => {
    const source = event.target?.src ?? event.target?.href;
    tell(source ? `${source} does not load` : event.message);
  }, true);
  window.addEventListener("unhandledrejection", ({ reason }) => {
    reason?.status === undefined ? tell(reason?.message ?? String(reason)) : show(reason.message); // what the API refuses
  });
})();
