/**
 * Whether a socket's peer is still there. Pure.
 *
 * A ping goes out every 15 s, and no pong within 15 s ends the socket. One case is told apart: a client that does not read for a while (busy, paused,
 * on a slow line) cannot answer, because the ping waits behind lines that it has not read. To end it would take its lines away for being slow.
 * From here two things can be seen of it: our own buffer does not empty, or more was written since the last answered ping than fits in
 * a read or two, so that the kernels on the way may hold it. Such a socket is given longer, 5 minutes since the last sign of life: a pong, or bytes that
 * left a buffer which was stuck. It costs a bounded buffer meanwhile. A peer that vanished while lines were flowing looks the same and is
 * ended then, or earlier by TCP's own retransmission limit.
 */

export interface LivenessLimits {
  readonly pingIntervalMs: number;
  readonly pongTimeoutMs: number;
  readonly stalledTimeoutMs: number;
}

/** What is unread may be as much as this without the client being taken for one that does not read. */
const unreadBytesMin = 64 * 1024;

export interface Traffic {
  /** Everything ever written, what still waits in our buffer included. */
  readonly writtenBytes: number;
  /** What waits in our buffer. */
  readonly waitingBytes: number;
}

export interface Liveness {
  pingDueAtMs: number;
  /** Undefined while no ping is unanswered. */
  pingedAtMs: number | undefined;
  /** `writtenBytes` when the ping was sent: all before it has been read once the pong is here. */
  pingedAtBytes: number;
  readBytesMin: number;
  lifeAtMs: number;
  drainedBytes: number;
  wasBlocked: boolean;
}

export function createLiveness(nowMs: number, traffic: Traffic, limits: LivenessLimits): Liveness {
  return {
    pingDueAtMs: nowMs + limits.pingIntervalMs,
    pingedAtMs: undefined,
    pingedAtBytes: 0,
    readBytesMin: traffic.writtenBytes,
    lifeAtMs: nowMs,
    drainedBytes: traffic.writtenBytes - traffic.waitingBytes,
    wasBlocked: false,
  };
}

/** What to do now. `ping` counts as sent. */
export function judge(
  liveness: Liveness,
  nowMs: number,
  traffic: Traffic,
  limits: LivenessLimits,
): 'wait' | 'ping' | 'dead' {
  noteDrained(liveness, nowMs, traffic);
  if (liveness.pingedAtMs === undefined) {
    if (nowMs < liveness.pingDueAtMs) return 'wait';
    liveness.pingedAtMs = nowMs;
    liveness.pingedAtBytes = traffic.writtenBytes;
    return 'ping';
  }
  if (nowMs - Math.max(liveness.pingedAtMs, liveness.lifeAtMs) < limits.pongTimeoutMs) return 'wait';
  const mayHaveUnread = traffic.waitingBytes > 0 || traffic.writtenBytes - liveness.readBytesMin > unreadBytesMin;
  if (!mayHaveUnread) return 'dead';
  return nowMs - liveness.lifeAtMs < limits.stalledTimeoutMs ? 'wait' : 'dead';
}

/** A pong came. One that nobody asked for is no answer. */
export function notePong(liveness: Liveness, nowMs: number, limits: LivenessLimits): void {
  if (liveness.pingedAtMs === undefined) return;
  liveness.pingDueAtMs = Math.max(liveness.pingedAtMs + limits.pingIntervalMs, nowMs);
  liveness.pingedAtMs = undefined;
  liveness.readBytesMin = liveness.pingedAtBytes;
  liveness.lifeAtMs = nowMs;
}

/** Bytes that leave an unblocked socket prove nothing, the kernel takes them; those that leave a stuck one were made room for by the peer. */
function noteDrained(liveness: Liveness, nowMs: number, traffic: Traffic): void {
  const drainedBytes = traffic.writtenBytes - traffic.waitingBytes;
  if (liveness.wasBlocked && drainedBytes > liveness.drainedBytes) liveness.lifeAtMs = nowMs;
  liveness.drainedBytes = drainedBytes;
  liveness.wasBlocked = traffic.waitingBytes > 0;
}
