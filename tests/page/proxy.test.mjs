// Below the path of a reverse proxy, which strips it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { proxy } from "./support/proxy.mjs";
import { scene } from "./support/scene.mjs";
import { closed } from "./support/service.mjs";

const it = scene(prepare);
let dead, front, id;
async function prepare() {
  front = await proxy(it.service, "/some/path");
  it.ending.push(() => front.end());
  dead = await closed();
  id = await it.service.accept(`${dead}/`, { jobId: "4711" });
  await it.service.waitForRetry(id);
}

test("every view, link and asset works below the path", async () => {
  const page = await open(it.browser, it.service, { at: front.base });
  const status = [];
  page.on("response", (response) => { if (response.status() >= 400 && response.status() !== 401) status.push(`${response.status()} ${response.url()}`); });
  const seen = new Set();
  // `/ui` without its slash leads to the page as well.
  await page.goto(`${front.base}/ui`);
  assert.equal(page.url(), page.home);
  const queue = ["", "callbacks", `callbacks/${id}`, "destinations", "actions/cancel?jobId=4711"];
  for (const view of queue) {
    await page.visit(view);
    const links = await page.locator("a").evaluateAll((all) => all.map((a) => a.href.split("#")[0]));
    for (const link of links.filter((it) => new URL(it).hostname === "127.0.0.1" && !seen.has(it))) {
      seen.add(link);
      assert.ok(link.startsWith(page.home), `${link} in ${view}`);
      assert.equal((await page.goto(link)).status(), 200, link);
    }
  }
  assert.ok(seen.size > 10, [...seen].join(" "));
  assert.deepEqual(status, []);
  await page.end();
});

test("actions and the search work below the path", async () => {
  const page = await open(it.browser, it.service, { at: front.base });
  await page.visit("destinations");
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("Paused. Events").waitFor();
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText("Resumed.").waitFor();
  await page.locator("input[type=search]").fill(id);
  await page.keyboard.press("Enter");
  await page.waitForURL(`${page.home}callbacks/${id}*`);
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: /^Yes,/ }).click();
  await page.waitForURL(`${page.home}callbacks/${id}*`);
  assert.equal((await it.service.callback(id)).state, "failed");
  await page.end();
});

test("a link signs in below the path", async () => {
  const { stdout } = await it.service.run("ui", "--link");
  const page = await open(it.browser, it.service, { at: front.base, signedIn: false });
  page.expected.push(/status of 401/);
  await page.goto(stdout.trim().replace(it.service.base, front.base));
  await page.waitForURL(page.home);
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  await page.end();
});
