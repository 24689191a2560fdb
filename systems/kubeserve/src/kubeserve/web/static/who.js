// Who is logged in, and the way out. Every page imports it.
import { call } from "./api.js";
import { element } from "./dom.js";

async function who() {
  try {
    const { email } = await call("GET", "/me");
    element("who").textContent = email;
    element("who").title = email;
    element("logout").hidden = false;
  } catch (error) {
    if (error.status === undefined) {
      throw error;
    }
  }
}

element("logout").addEventListener("click", async () => {
  await call("POST", "/auth/logout");
  location.assign("/login");
});
who();
