/**
 * The plain design, as a peer: `tail -F` on a file, and one `ws.send` a line a client. It writes its port to standard output once it listens.
 *
 *   node plain.ts FILE
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { AddressInfo } from 'node:net';
import { WebSocketServer } from 'ws';

const file = process.argv[2] ?? '';
const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false, backlog: 4096 });
const tail = spawn('tail', ['-n', '0', '-F', file], { stdio: ['ignore', 'pipe', 'inherit'] });
createInterface({ input: tail.stdout }).on('line', (line) => {
  for (const client of server.clients) client.send(line);
});
server.on('listening', () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`);
});
process.on('SIGTERM', () => {
  tail.kill();
  process.exit();
});
