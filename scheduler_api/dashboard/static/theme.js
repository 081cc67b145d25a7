// Sets the theme before the first paint. "light" or "dark" was chosen; without a choice, the system's applies.
"use strict";
(() => {
  const chosen = localStorage.getItem("cronpost.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
