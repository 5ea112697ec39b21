import { pino } from 'pino';
import type { Logger } from 'pino';

export type { Logger };

/** The structured logger; nothing else prints. Tokens never reach it, and these paths make sure of it. */
export function createLogger(options: { name: string; level: string }): Logger {
  return pino({
    name: options.name,
    level: options.level,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: {
      paths: [
        '*.authorization',
        '*.Authorization',
        '*["sec-websocket-protocol"]',
        'headers',
        '*.headers',
        'token',
        '*.token',
      ],
      censor: '[redacted]',
    },
  });
}

/** A logger that drops everything, for tests. */
export function createSilentLogger(): Logger {
  return pino({ level: 'silent' });
}
