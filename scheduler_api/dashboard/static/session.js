// The session of the viewer: the form that signs in, signing in again in the middle of work, and signing out.
// The key is only ever in the password field and in the body of one request.

import { get, send, setUnauthorized } from "./base/api.js";
import { dialog, toast } from "./base/dialog.js";
import { bdi, element, fill } from "./base/dom.js";
import { clearProblems, field, input, setProblem, showProblem } from "./base/form.js";
import { go } from "./base/go.js";
import { localText } from "./base/time.js";

const PAGE = "/ui/sign-in";
let account = null; // the element of the navigation that shows who is signed in
let known = null; // the latest answer of /ui/session
let asking = null; // the dialog that is open, as a promise

/** Show in `place` who is signed in, now and after each sign-in, and ask again when the session has ended. */
export async function watchSession(place) {
  account = place;
  setUnauthorized(signInAgain);
  // A page that the browser kept for its Back button may show what only a signed-in person may see.
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
  try {
    remember(await get("/ui/session"));
  } catch {
    // The page shows the problem; who is signed in is shown after the next sign-in.
  }
}

function remember(session) {
  known = session;
  fill(account, session.signed_in
    ? element("div", { class: "account" },
        element("span", { title: `The session ends at ${localText(session.expires_at, { seconds: false })}` }, "Key ", bdi(session.key)),
        element("button", { type: "button", class: "plain small", onclick: signOut }, "Sign out"))
    : null);
}

async function signOut() {
  try {
    await send("DELETE", "/ui/session");
  } catch (problem) {
    return toast(problem.detail, "bad");
  }
  location.assign(PAGE); // a new document: nothing of the old pages stays in memory
}

/**
 * Ask for the key after a request was refused with 401. The page stays, with what was typed, if the viewer was signed
 * in; otherwise the sign-in page is shown, which leads back.
 * @returns {Promise<boolean>} whether the request can be sent again
 */
async function signInAgain() {
  if (location.pathname === PAGE) return false;
  if (!known?.signed_in && !asking) {
    go(pageFor(location.pathname + location.search), { replace: true });
    return false;
  }
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

async function ask() {
  let done = false;
  const form = signInForm(() => {
    done = true;
    form.closest("dialog").close();
  });
  const answered = dialog({
    title: "Your session has ended",
    body: [element("p", {}, "Sign in to continue. What you typed on this page is kept."), form],
    actions: [{ text: "Leave this page", value: false }],
  });
  form.querySelector("[type=password]").focus();
  await answered;
  if (!done) {
    known = null;
    go(pageFor(location.pathname + location.search), { replace: true });
  }
  return done;
}

function pageFor(to) {
  return `${PAGE}?to=${encodeURIComponent(to)}`;
}

/** Return the page of the dashboard that a text names; the overview if it names none. */
export function pageOf(text) {
  try {
    const to = new URL(text ?? "/ui", location.origin);
    const inside = to.origin === location.origin && /^\/ui(\/|$)/.test(to.pathname) && to.pathname !== PAGE;
    return inside ? to.pathname + to.search + to.hash : "/ui";
  } catch {
    return "/ui";
  }
}

/** Build the form that exchanges a key for a session; `onsuccess` is called after that. */
export function signInForm(onsuccess) {
  const key = field({
    label: "API key",
    name: "key",
    input: input({ type: "password", autocomplete: "current-password", required: true }),
    hint: "One of the keys in CRONPOST_API_KEYS of this server.",
  });
  const submit = element("button", { class: "primary" }, "Sign in");
  const form = element("form", { class: "form sign-in-form", onsubmit: exchange },
    // For password managers, which file a password under a name.
    input({ hidden: true, name: "user", autocomplete: "username", value: "cronpost" }),
    key,
    element("div", {}, submit));
  async function exchange(event) {
    event.preventDefault();
    clearProblems(form);
    submit.disabled = true;
    try {
      const session = await send("POST", "/ui/session", { key: key.input.value });
      key.input.value = "";
      remember(session);
      onsuccess(session);
    } catch (problem) {
      if (problem.retryAfter && problem.code === "too_many_sign_ins") return wait(problem.retryAfter);
      showProblem(form, problem);
      key.input.select();
    }
    submit.disabled = false;
  }

  function wait(seconds) {
    if (seconds <= 0) {
      setProblem(key, null);
      submit.disabled = false;
      return;
    }
    setProblem(key, `Too many refused sign-ins from this address. Try again in ${seconds} s.`);
    setTimeout(() => wait(seconds - 1), 1000);
  }

  return form;
}
