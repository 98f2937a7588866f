// Untrusted text in every field: job id, directory, URL, tracker's URL, errors and responses.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";
import { closed, Receiver } from "./support/service.mjs";

const MARKUP = `"><img src=http://evil.example/x onerror=alert(1)><script>alert(1)</script>' {{7*7}} \u202e\u0007`;
const PASSWORD = "nobody-may-see-this";

const it = scene(prepare);
let ids;
async function prepare() {
  const bad = await Receiver.start([410, `</pre>${MARKUP}`]);
  it.ending.push(() => bad.end());
  const [host] = bad.origin.split("//").slice(1);
  const event = (jobId, dpfTrackerUrl) => ({ jobId, jobIdFs: `fs ${MARKUP}`, dpfTrackerUrl });
  const failed = await it.service.accept(`http://user:${PASSWORD}@${host}/"><img/src=x>'$(id)?a=<b>`, event(`1 ${MARKUP}`, "javascript:alert(1)"));
  await it.service.waitFor(failed, "failed");
  const dead = await closed();
  const pending = await it.service.accept(`${dead}/<script>alert(1)</script>`, event(`2 ${MARKUP}`, `http://tracker.example/"onmouseover="alert(1)?<script>`));
  await it.service.waitForRetry(pending);
  ids = [failed, pending];
}

async function isHarmless(page) {
  assert.equal(await page.locator("img, iframe, object, embed, main script, [onerror], [onmouseover]").count(), 0, page.url());
  const schemes = await page.locator("a").evaluateAll((all) => [...new Set(all.map((a) => a.protocol))]);
  assert.deepEqual(schemes.filter((scheme) => !["http:", "https:"].includes(scheme)), []);
  assert.doesNotMatch(await page.locator("main").innerText(), /[\u202a-\u202e\u2066-\u2069]/, "text that is read backwards");
  assert.ok(!(await page.content()).includes(PASSWORD), `the password is in ${page.url()}`);
}

for (const javaScriptEnabled of [true, false]) {
  test(`hostile text stays text in every view, the script ${javaScriptEnabled ? "on" : "off"}`, async () => {
    const page = await open(it.browser, it.service, { javaScriptEnabled });
    const views = ["", "callbacks", "destinations", ...ids.map((id) => `callbacks/${id}`), `search?q=${encodeURIComponent(MARKUP)}`,
      `callbacks?jobId=${encodeURIComponent(MARKUP)}`, `actions/replay?jobIdFs=${encodeURIComponent(`fs ${MARKUP}`)}`,
      `destinations?host=${encodeURIComponent(MARKUP)}`];
    for (const view of views) {
      assert.equal((await page.visit(view)).status(), 200, view);
      await isHarmless(page);
    }
    page.expected.push(/status of 400/);
    for (const view of [`callbacks?state=${encodeURIComponent(MARKUP)}`, `callbacks?${encodeURIComponent(MARKUP)}=1`, `callbacks/${encodeURIComponent("<img>")}`]) {
      assert.equal((await page.visit(view)).status(), 400, view);
      await isHarmless(page);
    }
    await page.end();
  });
}

test("links to DPF Tracker are http or https, and a callback's URL is never a link", async () => {
  const page = await open(it.browser, it.service);
  await page.visit(`callbacks/${ids[0]}`);
  assert.equal(await page.getByText("javascript:alert").locator("xpath=self::a").count(), 0);
  await page.visit(`callbacks/${ids[1]}`);
  const foreign = await page.locator("main a").evaluateAll((all) => all.filter((a) => a.origin !== location.origin).map((a) => [a.hostname, a.rel]));
  assert.deepEqual(foreign, [["tracker.example", "noreferrer noopener"]]);
  await page.end();
});

test("what the receiver answered is shown as it was", async () => {
  const page = await open(it.browser, it.service);
  await page.visit(`callbacks/${ids[0]}`);
  await page.getByText("Response", { exact: true }).click();
  const shown = await page.locator(".timeline pre").innerText();
  assert.ok(shown.startsWith(`</pre>"><img src=http://evil.example/x onerror=alert(1)><script>`), shown);
  await page.end();
});

test("an action on a hostile filter meets these callbacks and no others", async () => {
  const other = await it.service.accept(`${await closed()}/`, { jobId: "other" });
  await it.service.waitForRetry(other);
  const page = await open(it.browser, it.service);
  await page.visit(`callbacks?jobIdFs=${encodeURIComponent((await it.service.callback(ids[1])).jobIdFs)}&state=pending`);
  await page.getByLabel(/that match/).check();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByText("1 callback matches").waitFor();
  await page.getByRole("button", { name: /^Yes,/ }).click();
  await page.getByText("Cancelled: 1 of 1").waitFor();
  assert.equal((await it.service.callback(other)).state, "pending");
  await page.end();
});
