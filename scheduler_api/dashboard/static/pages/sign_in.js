// The sign-in page. It leads back to the page that was asked for (?to=).

import { get } from "../base/api.js";
import { element } from "../base/dom.js";
import { failed, load, page } from "../base/view.js";
import { pageOf, signInForm } from "../session.js";

export const styles = ["sign_in.css"];

export async function show(view) {
  const to = pageOf(view.query.get("to"));
  const body = page(view, { title: "Sign in" });
  view.root.classList.add("sign-in");
  const place = element("div", {});
  body.append(place);
  await load(place, () => get("/ui/session", { signal: view.signal }), (session) => {
    if (session.signed_in || !session.sign_in_needed) {
      view.go(to, { replace: true });
      return null;
    }
    if (!isSecureContext) {
      return failed({ detail: "Over http, browsers leave out the header that protects a session, except on localhost. Open the dashboard by https, or through a tunnel to this machine: ssh -L 8000:localhost:8000 …" });
    }
    const form = signInForm(() => view.go(to, { replace: true }));
    queueMicrotask(() => form.querySelector("[type=password]").focus());
    return form;
  });
}
