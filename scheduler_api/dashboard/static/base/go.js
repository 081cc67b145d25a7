// Navigation for modules that have no view. The router sets what it does.

let handler = (path) => location.assign(path);

/** Show the page at `path` ("/ui/jobs?status=paused"); `replace`: without a new entry in the browser's history. */
export function go(path, { replace = false } = {}) {
  handler(path, { replace });
}

/** Set what `go` does; for the router. */
export function setNavigation(navigate) {
  handler = navigate;
}
