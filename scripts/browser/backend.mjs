// A backend that answers what it was asked. It prints its port and lives until it is ended.
import { createServer } from 'node:http';

const s = createServer((req, res) => {
  res.setHeader('Content-Type', 'application/json');
  res.end(JSON.stringify({ method: req.method, path: req.url }));
});
s.listen(0, '127.0.0.1', () => console.log(s.address().port));
process.on('SIGTERM', () => process.exit(0));
