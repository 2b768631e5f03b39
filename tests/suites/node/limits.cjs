// Loaded before a suite that Node's test runner runs: each test and hook gets a limit of time, so that one that waits for
// what never comes costs its own result only; and connections that a failed test left open do not keep the process.
'use strict';

const test = require('node:test');

const limit = Number(process.env.TEST_TIMEOUT_MS || 10000);

const it = test.it;
const limited = (name, options, fn) =>
  typeof options === 'function' ? it(name, { timeout: limit }, options) : it(name, { timeout: limit, ...options }, fn);
test.it = Object.assign(limited, it);

for (const hook of ['before', 'beforeEach', 'afterEach']) {
  const original = test[hook];
  test[hook] = (fn, options) => original(fn, { timeout: limit, ...options });
}

test.after(() => setTimeout(() => process.exit(), 1000));
