//! What nobody may overlook, in words: the first note of a request, and the flags beside it (invariant 12).

use waymark_core::referral::{ConsentStatus, Contact, Flag, Format, Referral, SafeToContact};

/// What nobody may overlook, in words, for receivers that read no flags (invariant 12).
pub(super) fn banner(content: &Referral) -> String {
    let flags = |word: &str, flags: &[Flag]| -> Vec<String> {
        let line = |flag: &Flag| {
            let text = flag.text.as_ref().map_or("", |text| text.expose());
            format!("{word}: {} {text}", flag.code)
                .trim_end()
                .to_owned()
        };
        flags.iter().map(line).collect()
    };
    let mut lines = flags("SAFEGUARDING", &content.safeguarding);
    lines.extend(content.contacts.iter().filter_map(contact_words));
    lines.extend(content.contacts.iter().filter_map(format_words));
    lines.extend(
        content
            .allergies
            .as_ref()
            .map(|text| format!("ALLERGIES: {}", text.expose())),
    );
    lines.extend(flags(
        "REASONABLE ADJUSTMENT",
        &content.reasonable_adjustments,
    ));
    let scope: Vec<&str> = content
        .consent
        .scope
        .iter()
        .map(|scope| scope.as_str())
        .collect();
    lines.push(match content.consent.status {
        ConsentStatus::Given if scope.is_empty() => "CONSENT COVERS: nothing stated".to_owned(),
        ConsentStatus::Given => format!("CONSENT COVERS: {}", scope.join(", ")),
        other => format!("CONSENT: {other}"),
    });
    lines.join("\n")
}

/// Whether a person may not be contacted as any other.
pub(super) const fn is_unsafe(contact: &Contact) -> bool {
    match contact.safe_to_contact {
        SafeToContact::No | SafeToContact::WithCare => true,
        SafeToContact::Yes | SafeToContact::Unknown => false,
    }
}

/// What must be known before anybody contacts this person; none where contact is safe or nothing is known of it, and
/// nobody wrote a note.
pub(super) fn contact_words(contact: &Contact) -> Option<String> {
    let note = contact
        .safe_contact_note
        .as_ref()
        .map_or("", |text| text.expose());
    let rule = match contact.safe_to_contact {
        SafeToContact::No => "DO NOT CONTACT",
        SafeToContact::WithCare => "CONTACT ONLY AS FOLLOWS",
        _ if note.is_empty() => return None,
        SafeToContact::Yes => "BEFORE CONTACT",
        SafeToContact::Unknown => "BEFORE CONTACT, WHICH MAY BE UNSAFE",
    };
    let (given, family) = (contact.name.given.expose(), contact.name.family.expose());
    let words = format!("{rule}: {given} {family} ({}) {note}", contact.role);
    Some(words.trim_end().to_owned())
}

/// The format that this person reads; none where it is standard print.
pub(super) fn format_words(contact: &Contact) -> Option<String> {
    if contact.format == Format::Standard {
        return None;
    }
    let format = contact.format.as_str().replace('_', " ").to_uppercase();
    let (given, family) = (contact.name.given.expose(), contact.name.family.expose());
    Some(format!(
        "NEEDS {format}: {given} {family} ({})",
        contact.role
    ))
}
