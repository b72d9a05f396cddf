// MLLP receiver made of the npm package @medplum/hl7.
'use strict';
const { Hl7Segment } = require('@medplum/core');
const { Hl7Server } = require('@medplum/hl7');
const { options, Script, errFields, ready } = require('./mllp_script.js');

const found = options('medplum');
if (found.tls) throw new Error('@medplum/hl7 has no TLS');
const script = new Script(found);

const server = new Hl7Server((connection) => {
  script.watch(connection.socket);
  connection.addEventListener('error', (event) => {
    process.stderr.write(`medplum: ${event.error}\n`);
  });
  connection.addEventListener('message', ({ message }) => {
    const header = message.getSegment('MSH');
    const id = header.getField(10)?.toString() ?? '';
    const chosen = script.arrived(connection.socket, id);
    script.carryOut(connection.socket, chosen, () => {
      const err = errFields(chosen, header.getField(12)?.toString() ?? '');
      const text = err && ['ERR', ...err.map((field) => [field].flat().join('^'))].join('|');
      const errSegment = text ? Hl7Segment.parse(text) : undefined;
      const ack = message.buildAck({ ackCode: chosen.code, errSegment });
      if (chosen.wrongId) ack.getSegment('MSA').setField(2, 'NOT-YOURS');
      connection.send(ack);
    });
  });
});

server.start(found.port);
ready(server.server);
