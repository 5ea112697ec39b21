/**
 * The attacks that take a process of their own, so that the good clients of the test are held up by the Master alone.
 *
 *   TARGET='{"host":…,"port":…,"token":…,"id":…}' node attacks.ts NAME
 *
 * prints one JSON object: how many connections ended in which way, and how many tries there were in a second.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { clientFrame, consolePath, count, livePath, RawConnection, upgradeRequest } from './raw.ts';
import type { Endings, Target } from './raw.ts';

export interface Outcome {
  readonly endings: Endings;
  readonly perSecond?: number;
}

type Attack = (target: Target) => Promise<Outcome>;

const ping = 9;
const floodMs = 4_000;
/** Longer than the longest time that the Master gives anybody who is silent: a ping, its answer, and a tick of a second or two for each. */
const silenceMs = 45_000;
const crowd = 7_000;
const pipelined = 650;

const attacks: Record<string, Attack> = {
  /** Upgrades that are right in everything, at a byte a second. */
  'slow upgrades': (target) =>
    endAll(many(target, 200), silenceMs, async (connection) => drip(connection, upgradeRequest(target))),

  'connections that say nothing': (target) => endAll(many(target, 200), silenceMs, () => Promise.resolve()),

  /** Calls with a token, whose bodies never come, or a byte a second. */
  'bodies that never come': (target) => {
    const head = `POST ${executePath(target)} HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer ${target.token}\r\nContent-Length: 500\r\n\r\n`;
    let index = 0;
    return endAll(many(target, 100), silenceMs, async (connection) => {
      connection.send(head);
      if (index++ % 2 === 0) await drip(connection, `{"command":"${'x'.repeat(480)}`);
    });
  },

  /** WebSockets whose other side takes everything and answers no ping. */
  'half-open sockets': (target) => {
    let index = 0;
    return endAll(many(target, 30), silenceMs, async (connection) => {
      await upgrade(connection, target, index++ % 3 === 0 ? consolePath : livePath(target));
    });
  },

  'pings, answers read': (target) => pingFlood(target, true),
  'pings, answers not read': (target) => pingFlood(target, false),

  /** On as few connections as it takes, as fast as it goes. */
  'bad tokens in calls': async (target) => {
    const calls = 50;
    const call = `GET /api/instances/${target.id} HTTP/1.1\r\nHost: master\r\nAuthorization: Bearer rm_wrong\r\n\r\n`;
    let refused = 0;
    const endings: Endings = {};
    await forAWhile(20, async (isOver) => {
      const connection = new RawConnection(target);
      connection.socket.on('data', (data) => (refused += data.toString('latin1').split('HTTP/1.1 401').length - 1));
      while (!isOver() && !connection.socket.destroyed) {
        const wanted = connection.receivedBytes + calls * 300;
        connection.send(call.repeat(calls));
        await until(() => connection.receivedBytes >= wanted || isOver() || connection.socket.destroyed);
      }
      count(endings, connection.socket.destroyed ? await connection.ending(0) : 'answered to the end');
      connection.socket.destroy();
    });
    return { endings, perSecond: perSecond(refused) };
  },

  'bad tokens in upgrades': (target) =>
    storm(target, 100, (connection) => {
      connection.send(upgradeRequest(target, { token: 'rm_wrong' }));
      return connection.ending(30_000);
    }),

  /** Opened with a right token, and dropped at once. */
  'upgrades that are dropped': (target) =>
    storm(target, 50, async (connection) => {
      connection.send(upgradeRequest(target));
      const isOpen = await connection.upgraded();
      connection.socket.resetAndDestroy();
      return isOpen ? 'open' : 'refused';
    }),

  /** More than one key may have. */
  'too many sockets': (target) =>
    endAll(many(target, 1_300), floodMs, async (connection) => {
      await connection.connected;
      connection.send(upgradeRequest(target, { path: consolePath }));
      await connection.upgraded();
    }),

  'header bombs': (target) =>
    endAll(many(target, 200), floodMs, (connection) => {
      connection.send(
        `GET ${livePath(target)} HTTP/1.1\r\nHost: master\r\n${`X-Bomb: ${'x'.repeat(1_000)}\r\n`.repeat(100)}`,
      );
      return Promise.resolve();
    }),

  /** Open calls with large answers, none of which is read. */
  'pipelined calls': (target) =>
    endAll(many(target, 20), silenceMs, (connection) => {
      connection.socket.pause();
      connection.send('GET /api/openapi.json HTTP/1.1\r\nHost: master\r\n\r\n'.repeat(pipelined));
      connection.send('GET /api/metrics HTTP/1.1\r\nHost: master\r\n\r\n'.repeat(pipelined));
      setTimeout(() => connection.socket.resume(), floodMs);
      return Promise.resolve();
    }),

  /** More connections than there is room for besides sockets. */
  'a crowd that says nothing': async (target) => {
    const connections: RawConnection[] = [];
    while (connections.length < crowd) {
      const some = many(target, 500);
      connections.push(...some);
      await Promise.all(some.map(({ connected }) => connected));
    }
    return endAll(connections, floodMs, () => Promise.resolve());
  },
};

function many(target: Target, amount: number): RawConnection[] {
  return Array.from({ length: amount }, () => new RawConnection(target));
}

/** Lets each connection do its part, and waits for its end; for those that do not end, so long at most. */
async function endAll(
  connections: readonly RawConnection[],
  timeoutMs: number,
  act: (connection: RawConnection) => Promise<void>,
): Promise<Outcome> {
  const endings: Endings = {};
  await Promise.all(
    connections.map(async (connection) => {
      const ending = connection.ending(timeoutMs);
      await Promise.race([act(connection), ending]);
      count(endings, await ending);
    }),
  );
  return { endings };
}

/** A byte a second, from the third line of an HTTP head on. */
async function drip(connection: RawConnection, text: string): Promise<void> {
  for (const byte of text) {
    if (connection.socket.destroyed) return;
    connection.send(byte);
    await sleep(1_000);
  }
}

async function upgrade(connection: RawConnection, target: Target, path: string): Promise<void> {
  connection.send(upgradeRequest(target, { path }));
  if (!(await connection.upgraded())) throw new Error('The upgrade was refused');
}

async function pingFlood(target: Target, isRead: boolean): Promise<Outcome> {
  const block = Buffer.concat(
    Array.from({ length: 100 }, () => clientFrame({ opcode: ping, payload: Buffer.alloc(125, 'x') })),
  );
  const connections = many(target, 20);
  const isOver = after(floodMs);
  let sent = 0;
  const { endings } = await endAll(connections, floodMs + 4_000, async (connection) => {
    await upgrade(connection, target, connections.indexOf(connection) % 2 === 0 ? consolePath : livePath(target));
    if (!isRead) connection.socket.pause();
    while (!isOver() && connection.socket.writable) {
      sent += 100;
      if (connection.socket.write(block)) await sleep(0);
      else await until(() => !connection.socket.writableNeedDrain || isOver());
    }
    connection.socket.resume();
  });
  return { endings, perSecond: perSecond(sent) };
}

/** One new connection after the other, so many at a time. */
async function storm(
  target: Target,
  atOnce: number,
  act: (connection: RawConnection) => Promise<string>,
): Promise<Outcome> {
  const endings: Endings = {};
  let tries = 0;
  await forAWhile(atOnce, async (isOver) => {
    while (!isOver()) {
      count(endings, await act(new RawConnection(target)));
      tries++;
    }
  });
  return { endings, perSecond: perSecond(tries) };
}

async function forAWhile(atOnce: number, act: (isOver: () => boolean) => Promise<void>): Promise<void> {
  const isOver = after(floodMs);
  await Promise.all(Array.from({ length: atOnce }, () => act(isOver)));
}

function after(ms: number): () => boolean {
  const endsAt = performance.now() + ms;
  return () => performance.now() >= endsAt;
}

async function until(check: () => boolean): Promise<void> {
  while (!check()) await sleep(1);
}

function perSecond(amount: number): number {
  return Math.round((amount * 1_000) / floodMs);
}

function executePath({ id }: Target): string {
  return `/api/instances/${id}/execute`;
}

if (import.meta.main) {
  const attack = attacks[process.argv[2] ?? ''];
  const target = process.env.TARGET;
  if (attack === undefined || target === undefined) throw new Error(`Unknown attack or no TARGET: ${process.argv[2]}`);
  process.stdout.write(`${JSON.stringify(await attack(JSON.parse(target) as Target))}\n`);
  // What was left open is of no interest any more.
  process.exit();
}
