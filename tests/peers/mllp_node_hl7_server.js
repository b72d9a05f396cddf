// MLLP receiver made of the npm package node-hl7-server, plain or with mutual TLS.
'use strict';
const { Server } = require('node-hl7-server');
const { options, Script, errFields, ready } = require('./mllp_script.js');

const found = options('node-hl7-server');
const script = new Script(found);
const tls = found.tls ? { tls: { ...found.tls, requestCert: true } } : {};
const server = new Server({ bindAddress: '127.0.0.1', ...tls });

const inbound = server.createInbound({ port: found.port }, async (req, res) => {
  const message = req.getMessage();
  const id = message.get('MSH.10').toString();
  const socket = res._socket;
  const chosen = script.arrived(socket, id);
  await script.carryOut(socket, chosen, () => {
    const err = errFields(chosen, message.get('MSH.12').toString());
    if (!err && !chosen.wrongId) {
      res.sendResponse(chosen.code);
      return;
    }
    // sendResponse knows no ERR and no foreign id: the library's acknowledgement, then ours added.
    const ack = res._createAckMessage(chosen.code, message);
    if (chosen.wrongId) ack.get('MSA').set('2', 'NOT-YOURS');
    const fields = err ? ['ERR', ...err.map((field) => [field].flat().join('^'))] : [];
    const tail = err ? `\r${fields.join('|')}` : '';
    socket.write(Buffer.from(`\x0b${ack.toString()}${tail}\x1c\r`));
  });
});
inbound.on('data.error', (err) => process.stderr.write(`node-hl7-server: ${err}\n`));
inbound.on('client.error', () => {});
inbound.on('error', (err) => {
  process.stderr.write(`node-hl7-server: ${err}\n`);
  process.exit(1);
});

const event = found.tls ? 'secureConnection' : 'connection';
inbound._socket.prependListener(event, (socket) => script.watch(socket));
ready(inbound._socket);
