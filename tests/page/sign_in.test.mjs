// Signing in with the one-time link of `ui --link`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open } from "./support/browser.mjs";
import { scene } from "./support/scene.mjs";

const it = scene();

async function link() {
  const { code, stdout } = await it.service.run("ui", "--link");
  assert.equal(code, 0);
  assert.match(stdout, /^http:\/\/127\.0\.0\.1:\d+\/ui\/sign-in#[\w-]{43}\n$/);
  return stdout.trim();
}

test("a link signs in, and neither the address bar nor the history keeps its secret", async () => {
  const page = await open(it.browser, it.service, { signedIn: false });
  page.expected.push(/status of 401/);
  const url = await link();
  const secret = url.split("#")[1];
  await page.goto("about:blank");
  await page.goto(url);
  await page.waitForURL(page.home);
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  assert.ok((await page.locator("footer").innerText()).includes("Signed in as operator"));
  // Further views need no other sign-in, and actions work.
  await page.getByRole("link", { name: "Destinations", exact: true }).click();
  await page.waitForURL(/destinations$/);
  assert.deepEqual(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]), [0, 0, ""]);
  const back = [];
  for (let step = 0; step < 3; step += 1) {
    await page.goBack();
    back.push(page.url());
  }
  assert.ok(back.every((it) => !it.includes(secret) && !it.includes("#")), back.join(" "));
  await page.end();
});

test("a link that was used says so, and signs nobody in", async () => {
  const url = await link();
  const first = await open(it.browser, it.service, { signedIn: false });
  first.expected.push(/status of 401/);
  await first.goto(url);
  await first.waitForURL(first.home);
  await first.end();
  const second = await open(it.browser, it.service, { signedIn: false });
  second.expected.push(/status of 403/);
  await second.goto(url);
  await second.getByText("This link was used already").waitFor();
  assert.equal(second.url(), `${second.home}sign-in`);
  await second.end();
});

test("the link's page without a link says how to get one", async () => {
  const page = await open(it.browser, it.service, { signedIn: false });
  await page.goto(new URL("sign-in", page.home).href);
  await page.getByText("`seal-dpf-urlcallback ui` opens one").waitFor();
  await page.end();
});

test("without the script, the link's page says how to sign in", async () => {
  const page = await open(it.browser, it.service, { signedIn: false, javaScriptEnabled: false });
  await page.goto(await link());
  // Chromium shows no <noscript> where only its tools switch the script off.
  assert.match(await page.locator("noscript").innerHTML(), /The link needs JavaScript.*href="\.\/"/);
  await page.end();
});
