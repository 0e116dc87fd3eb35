// A page of another origin in Chromium, with one EventSource that nobody helps.

import { launch, open, serve } from "./browser.mjs";
import { record } from "./record.mjs";
import { tell, untilStopped } from "./told.mjs";

const HTML = `<!doctype html>
<title>One EventSource</title>
<script>
  ${record}
  function watch(url) {
    record(new EventSource(url), tell);
  }
</script>`;

const origin = await serve(HTML);
// The proxies that some streams come through have certificates of the tests' own.
const browser = await launch({ acceptInsecureCerts: true });
tell({ kind: "ready", data: origin });

await untilStopped(async (url) => {
  const page = await open(browser, origin, (page) => page.exposeFunction("tell", tell));
  // Not while the page loads: what a page calls so early, puppeteer may lose.
  await page.evaluate((url) => watch(url), url);
  return () => browser.close();
});
