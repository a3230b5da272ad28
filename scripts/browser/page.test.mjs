// What a technician does with the page, done by a browser. See scripts/browser.sh.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { createRequire } from 'node:module';
import puppeteer from 'puppeteer-core';

const { ADMIN, API, WORK, OUT, DEVICE } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let browser, page;
const wrong = []; // errors of scripts, of the policy, and of loading

async function open(scheme = 'light', width = 1280, height = 900) {
  const p = await browser.newPage();
  await p.setViewport({ width, height });
  await p.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }, { name: 'prefers-reduced-motion', value: 'reduce' }]);
  await p.evaluateOnNewDocument(() => addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI)));
  p.on('pageerror', (e) => wrong.push('script: ' + e.message));
  p.on('console', (m) => { if (m.type() === 'error' && !/status of 4\d\d/.test(m.text())) wrong.push('console: ' + m.text()); });
  return p;
}

const text = (sel) => page.$eval(sel, (e) => e.textContent);
const see = (sel, what, timeout = 15000) => page.waitForFunction((s, w) => [...document.querySelectorAll(s)].some((e) => e.textContent.includes(w)), { timeout, polling: 50 }, sel, what);
const shot = (name, p = page) => p.screenshot({ path: `${OUT}/${name}.png`, fullPage: true });
async function go(name, p = page) {
  await p.evaluate((n) => { location.hash = '#/' + n; }, name);
  await p.waitForSelector(`#nav-${name}[aria-current=page]`);
}

/** No finding of axe-core that is serious or worse. */
async function accessible(where, p = page) {
  // The page's own policy forbids foreign scripts; the debugger is not bound by it.
  await p.evaluate(axe + ';0');
  const r = await p.evaluate(async () => (await window.axe.run(document, { resultTypes: ['violations'] })).violations
    .filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ') + ' ' + n.failureSummary).join('; ')}`));
  assert.deepEqual(r, [], where);
}

before(async () => {
  browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
  page = await open();
});

after(async () => { await browser?.close(); });

test('first paint is quick, and the page weighs little', async () => {
  const sizes = [];
  const cdp = await page.createCDPSession();
  await cdp.send('Network.enable');
  cdp.on('Network.loadingFinished', (e) => sizes.push(e.encodedDataLength));
  await page.goto(ADMIN + '/', { waitUntil: 'load' });
  await page.waitForSelector('.hero');
  await see('.hero h1', 'Open');
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  const total = sizes.reduce((a, b) => a + b, 0);
  assert.ok(total < 200 * 1024, `${total} bytes over the wire`);
  console.log(`first contentful paint ${paint?.toFixed(0)} ms, ${total} bytes over the wire with the first data`);
  writeFileSync(`${OUT}/figures.json`, JSON.stringify({ first_contentful_paint_ms: paint, bytes: total }, null, 2));
  await shot('01-overview');
  await accessible('overview');
});

test('looking needs no password here, changing does', async () => {
  await go('bundles');
  await see('main', 'Sign in as an administrator');
  assert.equal(await page.$('#file'), null);
});

test('a wrong password is told, the right one signs in, by keyboard alone', async () => {
  await page.focus('#sign');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#name');
  await page.type('#name', 'eva');
  await page.keyboard.press('Tab');
  await page.keyboard.type('not the password');
  await page.keyboard.press('Enter');
  await see('.note', 'name or password is wrong');
  await shot('02-sign-in');
  await accessible('sign in');
  await page.keyboard.type('correct horse battery');
  await page.keyboard.press('Enter');
  await see('#who', 'eva (admin)');
});

test('a broken bundle is refused with its word and a reason', async () => {
  await go('bundles');
  await (await page.waitForSelector('#file')).uploadFile(`${WORK}/broken.tide`);
  await see('#result', 'E_TRUNCATED');
  await shot('03-refused');
});

test('a bundle is uploaded, its plan shown, applied, and confirmed after its trial', async () => {
  await (await page.waitForSelector('#file')).uploadFile(`${WORK}/two.tide`);
  await see('#plan-verdict', 'Signed, newer, and for this device');
  await shot('04-plan');
  await accessible('plan');
  assert.match(await text('#rules'), /operation GET \/meters\/1\.0\/alarms/, 'the plan names the operation that comes');
  assert.match(await text('#rules'), /resource plan 5PerMin.*limit 5 in 1m → 7 in 1m/, 'and the limit that moves');
  assert.equal((await page.$$('#rules li')).length, 2, 'and nothing else, for nothing else changes');
  await page.waitForFunction(() => document.activeElement.id === 'apply');
  await page.keyboard.press('Enter');
  await see('#trial-note', 'Bundle 2 serves on trial');
  await see('#state', 'bundle 2 on trial', 5000);
  assert.equal((await fetch(API + '/meters/1.0/alarms')).status, 200, 'the new operation answers while on trial');
  await shot('05-trial');
  await see('#result', 'Bundle 2 is confirmed', 60000);
  await see('#state', 'bundle 2 serves');
  await shot('06-confirmed');
  await accessible('bundles');
});

test('a 429 is counted, and seen under APIs, calls and limits', async () => {
  await go('calls');
  await page.waitForSelector('#q');
  let last;
  for (let i = 0; i < 70; i++) last = (await fetch(API + '/meters/1.0/status')).status;
  assert.equal(last, 429);
  await page.select('#status', '429');
  await see('td', '429');
  await see('td', '900804');
  await page.evaluate(() => document.querySelector('tbody button').click());
  await see('section.wide', 'limit of the subscription');
  await shot('07-calls');
  await accessible('calls');
  await go('apis');
  await see('main', '900804 (limit of the subscription)');
  await see('tr.sub', '/status');
  await shot('08-apis');
  await accessible('apis');
  await go('limits');
  await see('td', 'Unauthenticated');
  await see('.text-bad', '60 of 60');
  await shot('09-limits');
  await accessible('limits');
});

test('rates, errors and latency are live', async () => {
  await go('apis');
  let on = true;
  const load = (async () => { while (on) { await fetch(API + '/meters/1.0/alarms'); await new Promise((r) => setTimeout(r, 20)); } })();
  await see('tr.sub', '/alarms');
  const row = () => page.$$eval('tr.sub', (all) => [...all.find((e) => e.textContent.includes('/alarms')).querySelectorAll('td.num')].map((e) => e.textContent));
  await page.waitForFunction(() => { const e = [...document.querySelectorAll('tr.sub')].find((r) => r.textContent.includes('/alarms')); return /[1-9].* \/s.*%.*(µs|ms)/.test(e?.textContent ?? ''); }, { timeout: 15000 });
  const [rate, errors, p95, calls] = await row();
  assert.match(rate, /^[0-9.]+ \/s$/); assert.match(errors, / %$/); assert.match(p95, /(µs|ms)$/); assert.ok(Number(calls.replace(',', '')) > 10, calls);
  await shot('08-apis-live');
  await go('overview');
  await page.waitForFunction(() => parseFloat(document.querySelector('.big')?.textContent) > 1, { timeout: 15000 });
  await shot('13-overview-live');
  on = false;
  await load;
});

test('a call is found by its request id', async () => {
  const id = (await fetch(API + '/meters/1.0/alarms')).headers.get('x-request-id');
  await fetch(API + '/meters/1.0/alarms');
  await go('calls');
  await page.select('#status', '');
  await page.type('#q', id);
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1, { timeout: 15000 });
  await page.evaluate(() => document.querySelector('tbody button').click());
  await see('section.wide', id);
  await page.$eval('#q', (e) => { e.value = ''; });
});

test('the bundle is rolled back after a question', async () => {
  await go('bundles');
  await (await page.waitForSelector('#rollback')).click();
  await page.waitForSelector('dialog[open]');
  await accessible('question');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('dialog'));
  assert.notEqual((await fetch(API + '/meters/1.0/alarms')).status, 404, 'Escape does nothing');
  await (await page.waitForSelector('#rollback')).click();
  await page.waitForSelector('dialog[open] .danger');
  await page.click('dialog .danger');
  await see('#state', 'bundle 1 serves');
  await see('td', 'rolled-back');
  await see('td', 'page eva@127.0.0.1');
  assert.equal((await fetch(API + '/meters/1.0/alarms')).status, 404);
  await shot('10-rolled-back');
});

test('trust, sync, log and doctor tell what they know', async () => {
  await go('trust');
  await see('td', 'release');
  await shot('11-trust');
  await accessible('trust');
  await go('sync');
  await see('main', 'mqtt.brokers is empty');
  await accessible('sync');
  await go('logs');
  await see('td', 'bundle on trial');
  await accessible('logs');
  await go('doctor');
  await see('.finding', 'no proof since the start');
  await see('.remedy', 'clock.trust');
  await shot('12-doctor');
  await accessible('doctor');
});

test('a phone, in the dark', async () => {
  const p = await open('dark', 390, 844);
  await p.goto(ADMIN + '/', { waitUntil: 'load' });
  for (const name of ['overview', 'apis', 'limits', 'calls', 'bundles', 'trust', 'sync', 'logs', 'doctor']) {
    await go(name, p);
    await p.waitForFunction(() => !document.querySelector('main').textContent.includes('Asking the device'));
    const wide = await p.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${name} is ${wide} pixels wider than the phone`);
    await accessible(name + ' on a phone', p);
    await shot('phone-' + name, p);
  }
  await p.close();
});

test('a plan on a phone, and who may only look', async () => {
  const p = await open('dark', 390, 844);
  await p.goto(ADMIN + '/#/bundles', { waitUntil: 'load' });
  await (await p.waitForSelector('#file')).uploadFile(`${WORK}/two.tide`);
  await p.waitForSelector('#rules li');
  assert.ok(await p.evaluate(() => document.documentElement.scrollWidth - innerWidth) <= 0, 'the plan is wider than the phone');
  await accessible('plan on a phone', p);
  await shot('phone-plan', p);
  await p.close();
  const other = await browser.createBrowserContext();
  const v = await other.newPage();
  await v.goto(ADMIN + '/#/sign-in', { waitUntil: 'load' });
  await v.waitForSelector('#name');
  await v.type('#name', 'ron');
  await v.type('#password', 'only looking here');
  await v.keyboard.press('Enter');
  await v.waitForFunction(() => document.getElementById('who').textContent === 'ron (viewer)');
  await go('bundles', v);
  await v.waitForFunction(() => document.querySelector('main').textContent.includes('You may look, not change'));
  assert.equal(await v.$('#file'), null);
  assert.equal(await v.$('#rollback'), null);
  await other.close();
});

test('every part is reached by Tab, and the focus is seen', async () => {
  await go('overview');
  await page.focus('#skip');
  const seen = [];
  for (let i = 0; i < 14; i++) {
    if (await page.evaluate(() => document.activeElement === document.body)) break; // round the page
    seen.push(await page.evaluate(() => document.activeElement.id || document.activeElement.textContent));
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    if (i > 0) assert.notEqual(outline, 'none', 'no outline on ' + seen.at(-1));
    await page.keyboard.press('Tab');
  }
  for (const id of ['sign', 'nav-overview', 'nav-doctor']) assert.ok(seen.includes(id), `${id} is not reached: ${seen}`);
});

test('markup out of calls stays text', async () => {
  await go('calls');
  await page.select('#status', '');
  const evil = '"><img src=x onerror=document.title="owned">';
  for (let i = 0; i < 3; i++) await fetch(API + '/meters/1.0/status?x=' + encodeURIComponent(evil), { headers: { 'User-Agent': evil, 'X-Request-Id': evil } });
  await page.type('#q', evil.slice(0, 20));
  await new Promise((r) => setTimeout(r, 1000));
  assert.equal(await page.$('main img'), null);
  assert.doesNotMatch(await page.title(), /owned/);
});

test('markup in the names of a bundle stays text', async () => {
  const clean = async (where) => {
    assert.equal(await page.$('main img'), null, where);
    assert.equal(await page.$('main b b'), null, where);
    assert.doesNotMatch(await page.title(), /owned/, where);
  };
  await go('bundles');
  await (await page.waitForSelector('#file')).uploadFile(`${WORK}/evil.tide`);
  await see('#rules', '<img src=x onerror');
  await clean('the plan');
  await shot('14-hostile-plan');
  await page.click('#apply');
  await see('#trial-note', 'on trial');
  for (let i = 0; i < 9; i++) await fetch(API + '/meters/1.0/status');
  await go('apis');
  await see('main', '<img src=x onerror');
  await see('tr.sub', '<b>5PerMin');
  await clean('APIs');
  await go('limits');
  await see('td', '<b>5PerMin');
  await clean('limits');
  await go('calls');
  await see('td', '<img src=x onerror');
  await clean('calls');
  await go('overview');
  await see('.hero h1', 'Open');
  await clean('overview');
});

test('ten pages open cost the device little', async () => {
  const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${DEVICE}/status`, 'utf8'))[1]) / 1024;
  const one = rss();
  const pages = await Promise.all(Array.from({ length: 9 }, async (_, i) => {
    const p = await open();
    await (await p.createCDPSession()).send('Emulation.setFocusEmulationEnabled', { enabled: true }); // else a page behind another rests
    await p.goto(`${ADMIN}/#/${['overview', 'apis', 'calls'][i % 3]}`, { waitUntil: 'load' });
    return p;
  }));
  for (const p of pages) assert.equal(await p.evaluate(() => document.visibilityState), 'visible', 'a page that nobody sees asks for nothing');
  await new Promise((r) => setTimeout(r, 5000));
  const ten = rss();
  const f = JSON.parse(readFileSync(`${OUT}/figures.json`, 'utf8'));
  writeFileSync(`${OUT}/figures.json`, JSON.stringify({ ...f, rss_mib_one_page: one, rss_mib_ten_pages: ten }, null, 2));
  console.log(`resident: ${one.toFixed(1)} MiB with one page, ${ten.toFixed(1)} MiB with ten`);
  for (const p of pages) await p.close();
});

test('nothing went wrong on the way', () => assert.deepEqual(wrong, []));
