// Work that is repeated while a page is shown.

/**
 * Call `work` now, every `interval` milliseconds while the tab is visible, and when it becomes visible again.
 * @param {() => Promise<any>} work handles its own errors
 * @param {number} interval
 * @param {{signal: AbortSignal}} options ends the calls
 * @returns {Promise<any>} of the first call
 */
export function poll(work, interval, { signal }) {
  let last = performance.now();
  const look = () => {
    if (document.hidden || performance.now() - last < interval - 50) return;
    last = performance.now();
    work();
  };
  const timer = setInterval(look, interval);
  document.addEventListener("visibilitychange", look, { signal });
  signal.addEventListener("abort", () => clearInterval(timer));
  return work();
}
