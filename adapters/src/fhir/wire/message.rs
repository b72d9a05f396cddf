//! A BaRS message as it came: its header, its resources, and what its references lead to.

use serde_json::Value;

use super::super::name;
use super::node::{Fault, Issue, Node};

/// The most resources of one message.
pub(crate) const ENTRIES_MAX: usize = 500;
/// What a message's path begins with.
const ROOT: &str = "Bundle";

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request.
    Request,
    /// A response to a request of ours.
    Response,
}

/// Why it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    New,
    Update,
}

/// A resource of a message.
pub(crate) struct Resource<'v> {
    pub(crate) url: Option<&'v str>,
    pub(crate) kind: &'v str,
    pub(crate) node: Node<'v>,
}

/// A message.
pub(crate) struct Message<'v> {
    pub(crate) bundle: Node<'v>,
    pub(crate) header: Node<'v>,
    pub(crate) resources: Vec<Resource<'v>>,
}

impl<'v> Message<'v> {
    /// Reads a bundle of type `message`, whose first entry is its header (FHIR R4, bdl-12).
    pub(crate) fn read(value: &'v Value) -> Result<Self, Fault> {
        let bundle = Node::new(value, ROOT);
        match bundle.text("resourceType")? {
            Some("Bundle") => {}
            _ => return Err(bundle.fault("is a Bundle", Issue::NotSupported)),
        }
        if bundle.required_text("type")? != "message" {
            let rule = "is `message`: nothing else is processed here";
            return Err(bundle.fault_of("type", rule, Issue::NotSupported));
        }
        let entries = bundle.list("entry")?;
        if entries.len() > ENTRIES_MAX {
            let rule = format!("holds at most {ENTRIES_MAX} resources");
            return Err(bundle.fault_of("entry", rule, Issue::Value));
        }
        let mut resources = Vec::with_capacity(entries.len());
        for entry in &entries {
            let node = entry.required("resource")?;
            resources.push(Resource {
                url: entry.text("fullUrl")?,
                kind: node.required_text("resourceType")?,
                node,
            });
        }
        let header = resources
            .first()
            .filter(|first| first.kind == "MessageHeader")
            .map(|first| first.node.clone());
        let missing =
            || bundle.fault_of("entry[0].resource", "is the MessageHeader", Issue::Required);
        Ok(Self {
            header: header.ok_or_else(missing)?,
            bundle,
            resources,
        })
    }

    /// The resources of a kind.
    pub(crate) fn all<'m>(&'m self, kind: &str) -> impl Iterator<Item = &'m Node<'v>> {
        self.resources
            .iter()
            .filter(move |resource| resource.kind == kind)
            .map(|resource| &resource.node)
    }

    /// What a reference leads to: by its full URL, else by type and id.
    pub(crate) fn resolve(&self, reference: &Node<'v>) -> Result<Option<&Resource<'v>>, Fault> {
        let Some(target) = reference.text("reference")? else {
            return Ok(None);
        };
        let by_id = |resource: &&Resource<'v>| {
            let id = resource.node.value().get("id").and_then(Value::as_str);
            id.is_some_and(|id| target.split_once('/') == Some((resource.kind, id)))
        };
        let by_url = self.resources.iter().find(|r| r.url == Some(target));
        Ok(by_url.or_else(|| self.resources.iter().find(by_id)))
    }

    /// What it is about.
    pub(crate) fn event(&self) -> Result<Event, Fault> {
        let coding = self.header.required("eventCoding")?;
        match coding.required_text("code")? {
            "servicerequest-request" => Ok(Event::Request),
            "servicerequest-response" => Ok(Event::Response),
            _ => {
                let rule = "is servicerequest-request or servicerequest-response: no other event is taken here";
                Err(coding.fault_of("code", rule, Issue::NotSupported))
            }
        }
    }

    /// Why it is sent.
    pub(crate) fn reason(&self) -> Result<Reason, Fault> {
        let reason = self.header.required("reason")?;
        let coding = reason.list("coding")?;
        let first = coding
            .first()
            .ok_or_else(|| reason.fault_of("coding", "is required", Issue::Required))?;
        match first.required_text("code")? {
            "new" => Ok(Reason::New),
            "update" => Ok(Reason::Update),
            _ => Err(first.fault_of("code", "is new or update", Issue::NotSupported)),
        }
    }

    /// The request that it is about: what the focus names, else the only one there is.
    pub(crate) fn request(&self) -> Result<&Node<'v>, Fault> {
        let focus = self.header.list("focus")?;
        let first = focus.first().ok_or_else(|| {
            self.header
                .fault_of("focus", "is required", Issue::Required)
        })?;
        if let Some(found) = self.resolve(first)?
            && found.kind == "ServiceRequest"
        {
            return Ok(&found.node);
        }
        let mut all = self.all("ServiceRequest");
        match (all.next(), all.next(), self.event()?) {
            // A response may have its encounter in focus.
            (Some(only), None, Event::Response) => Ok(only),
            _ => Err(first.fault_of(
                "reference",
                "leads to the ServiceRequest of this message",
                Issue::Value,
            )),
        }
    }

    /// Whether it says that it holds test data (v3-ActReason `HTEST`, FHIR R4, 2.1.7.1).
    pub(crate) fn is_test(&self) -> Result<bool, Fault> {
        let Some(meta) = self.bundle.object("meta")? else {
            return Ok(false);
        };
        for label in meta.list("security")? {
            if label.text("code")? == Some("HTEST") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where it says that it goes: `system|value`.
    pub(crate) fn destinations(&self) -> Result<Vec<&'v str>, Fault> {
        let list = self.header.list("destination")?;
        list.iter()
            .map(|one| one.required_text("endpoint"))
            .collect()
    }

    /// The ODS code of the organisation that sends it, where it names one.
    pub(crate) fn sender(&self) -> Result<Option<&'v str>, Fault> {
        let Some(reference) = self.header.object("sender")? else {
            return Ok(None);
        };
        let Some(organisation) = self.resolve(&reference)? else {
            return Ok(None);
        };
        for identifier in organisation.node.list("identifier")? {
            let system = identifier.text("system")?;
            if name::is_system(system, name::ODS_CODE) || system == Some("urn:waymark:id:agency") {
                return identifier.text("value");
            }
        }
        Ok(None)
    }
}
