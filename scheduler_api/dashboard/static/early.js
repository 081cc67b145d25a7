// Loads the modules of the page while those of the shell are still loading. The router finds them loaded.

import { find } from "./routes.js";

find(location.pathname)?.route.load().catch(() => {}); // the router loads it again, and shows what is wrong
