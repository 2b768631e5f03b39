// Reporter of Node's test runner: one JSON object a line for each test, with the names of what encloses it.
export default async function* reporter(events) {
  const enclosing = [];
  for await (const { type, data } of events) {
    if (type === 'test:start') {
      enclosing.length = data.nesting;
      enclosing.push(data.name);
    }
    if ((type !== 'test:pass' && type !== 'test:fail') || data.details?.type === 'suite') continue;
    const error = data.details?.error;
    yield `${JSON.stringify({
      id: [...enclosing.slice(0, data.nesting), data.name].join(' > '),
      outcome: data.skip !== undefined || data.todo !== undefined ? 'skip' : type === 'test:pass' ? 'pass' : 'FAIL',
      detail: error ? String(error.cause?.stack ?? error.cause ?? error.stack ?? error) : '',
      seconds: (data.details?.duration_ms ?? 0) / 1000,
    })}\n`;
  }
}
