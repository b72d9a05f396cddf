// MLLP receiver made of the npm package simple-hl7.
'use strict';
const hl7 = require('simple-hl7');
const { options, Script, errFields, ready } = require('./mllp_script.js');

const found = options('simple-hl7');
if (found.tls) throw new Error('simple-hl7 has no TLS');
const script = new Script(found);
const app = hl7.tcp();

app.use((req, res) => {
  const header = req.msg.header;
  const id = header.getField(8).toString();
  const chosen = script.arrived(res.socket, id);
  script.carryOut(res.socket, chosen, () => {
    const msa = res.ack.getSegment('MSA');
    if (chosen.code !== 'AA') msa.setField(1, chosen.code);
    if (chosen.wrongId) msa.setField(2, 'NOT-YOURS');
    // This library's acknowledgements always say 2.3, but the sender's version decides the ERR.
    const err = errFields(chosen, header.getField(10).toString());
    if (err) res.ack.addSegment('ERR', ...err);
    res.end();
  });
});
app.use((err, req, res, next) => {
  process.stderr.write(`simple-hl7: ${err}\n`);
});

const server = app.start(found.port).server;
server.prependListener('connection', (socket) => script.watch(socket));
ready(server);
