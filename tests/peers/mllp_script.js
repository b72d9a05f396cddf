// What every MLLP receiver here shares: command line, record file and the script of answers.
// The receiving, parsing and acknowledging is left to the third-party library under test.
'use strict';
const fs = require('fs');
const net = require('net');

const VT = 0x0b;
const END = Buffer.from([0x1c, 0x0d]);
const SLOW_MS = 3000;
const ERRORS = {
  100: 'Segment sequence error', 101: 'Required field missing', 102: 'Data type error',
  103: 'Table value not found', 200: 'Unsupported message type', 201: 'Unsupported event code',
  202: 'Unsupported processing id', 203: 'Unsupported version id', 204: 'Unknown key identifier',
  205: 'Duplicate key identifier', 206: 'Application record locked',
  207: 'Application internal error',
};

function options(peer) {
  const found = { peer, port: 0, record: null, answers: {}, script: [], tls: null };
  const args = process.argv.slice(2);
  const take = (flag) => {
    const value = args.shift();
    if (value === undefined) throw new Error(`${flag} needs a value`);
    return value;
  };
  while (args.length > 0) {
    const flag = args.shift();
    if (flag === '--port') found.port = Number(take(flag));
    else if (flag === '--record') found.record = take(flag);
    else if (flag === '--answers') found.answers = JSON.parse(fs.readFileSync(take(flag), 'utf8'));
    else if (flag === '--script') found.script = take(flag).split(',').filter((s) => s !== '');
    else if (flag === '--tls') {
      const [cert, key, ca] = [take(flag), take(flag), take(flag)];
      found.tls = { cert: fs.readFileSync(cert), key: fs.readFileSync(key), ca: fs.readFileSync(ca) };
    } else throw new Error(`unknown option ${flag}`);
  }
  if (!found.record) throw new Error('--record FILE is needed');
  for (const text of [...found.script, ...Object.values(found.answers)]) behaviour(text);
  return found;
}

// "AE205", "ae:205", "DROP", "SLOW:500" and so on.
function behaviour(text) {
  const match = /^(AA|AE|AR|CA|CE|CR|DROP|HANG|SLOW|WRONGID):?(\d+)?$/.exec(text.toUpperCase());
  if (!match) throw new Error(`unknown behaviour ${text}`);
  const [, name, number] = match;
  if (name === 'SLOW') return { kind: 'ack', code: 'AA', delay: Number(number ?? SLOW_MS) };
  if (name === 'WRONGID') return { kind: 'ack', code: 'AA', delay: 0, wrongId: true };
  if (name === 'DROP' || name === 'HANG') return { kind: name.toLowerCase() };
  return { kind: 'ack', code: name, error: number ? Number(number) : null, delay: 0 };
}

function controlId(bytes) {
  const header = bytes.toString('latin1').split('\r')[0];
  return header.split(header[3] ?? '|')[9] ?? '';
}

// Keeps the bytes that came in on one socket until the library hands over the message they carry,
// because the libraries only show decoded text.
class Tap {
  constructor(socket) {
    this.buffer = Buffer.alloc(0);
    this.answered = new Map();
    const push = socket.push;
    const tap = this;
    socket.push = function (chunk, encoding) {
      if (chunk) tap.buffer = Buffer.concat([tap.buffer, chunk]);
      return push.call(this, chunk, encoding);
    };
  }

  // The frame's content, or null when the library replays a message that it gave us before.
  take(id) {
    for (;;) {
      const start = this.buffer.indexOf(VT);
      const end = start < 0 ? -1 : this.buffer.indexOf(END, start);
      if (end < 0) return null;
      const frame = this.buffer.subarray(start + 1, end);
      if (controlId(frame) === id) {
        this.buffer = this.buffer.subarray(end + END.length);
        return frame;
      }
      // A frame that the library never showed us; a replay must not eat a later frame.
      if (this.answered.has(id)) return null;
      this.buffer = this.buffer.subarray(end + END.length);
    }
  }
}

class Script {
  constructor(found) {
    this.found = found;
    this.file = fs.openSync(found.record, 'a');
    this.arrivals = 0;
    this.taps = new WeakMap();
  }

  watch(socket) {
    this.taps.set(socket, new Tap(socket));
  }

  // Records one arrival and returns how to behave; a library's own replay is answered as before.
  arrived(socket, id) {
    const tap = this.taps.get(socket);
    const bytes = tap.take(id);
    if (bytes === null) return tap.answered.get(id) ?? { kind: 'hang' };
    const at = new Date().toISOString();
    const line = {
      peer: this.found.peer, bytes_b64: bytes.toString('base64'), control_id: id, at,
    };
    fs.writeSync(this.file, JSON.stringify(line) + '\n');
    const text = this.found.script[this.arrivals] ?? this.found.answers[id] ?? 'AA';
    this.arrivals += 1;
    const chosen = behaviour(text);
    tap.answered.set(id, chosen);
    return chosen;
  }

  // Carries the behaviour out; `answer` sends the library's acknowledgement.
  async carryOut(socket, chosen, answer) {
    if (chosen.kind === 'drop') socket.destroy();
    if (chosen.kind !== 'ack') return;
    if (chosen.delay > 0) await new Promise((resume) => setTimeout(resume, chosen.delay));
    if (!socket.destroyed) answer();
  }
}

// ERR as the version has it: ERR-3 from 2.5 on, ERR-1 before.
function errFields(chosen, version) {
  if (!chosen.error) return null;
  const text = ERRORS[chosen.error] ?? 'Other';
  if (Number.parseFloat(version) >= 2.5) return ['', '', [String(chosen.error), text, 'HL70357'], 'E'];
  return [`^^^${chosen.error}&${text}&HL70357`];
}

// The libraries listen on every interface unless told; tests want loopback only.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (where, ...rest) {
  const place = typeof where === 'object' ? { ...where } : { port: where };
  return listen.call(this, { ...place, host: '127.0.0.1' }, ...rest);
};

function ready(server) {
  const say = () => process.stdout.write(`READY ${server.address().port}\n`);
  if (server.listening) say();
  else server.once('listening', say);
}

process.on('SIGTERM', () => process.exit(0));

module.exports = { options, Script, errFields, ready };
