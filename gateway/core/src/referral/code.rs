//! The closed code lists of a referral.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $default:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every code of the list, in its order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The code as text.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// Reads the code.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
        }
        impl Default for $name { fn default() -> Self { Self::$default } }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    )*};
}

codes! {
    /// Sex as recorded (NHS Data Dictionary, PERSON STATED GENDER CODE).
    Sex Unknown {
        /// Female.
        Female = "female",
        /// Male.
        Male = "male",
        /// Neither code fits.
        Other = "other",
        /// Not known.
        Unknown = "unknown",
    }
    /// Whether the NHS number was traced (UKCore-NHSNumberVerificationStatus).
    NhsVerification Unverified {
        /// Number present and verified.
        Verified = "verified",
        /// Present but not traced: must not match a child alone.
        Unverified = "unverified",
    }
    /// Relation of a contact to the child.
    ContactRole Other {
        /// Mother.
        Mother = "mother",
        /// Father.
        Father = "father",
        /// Parent.
        Parent = "parent",
        /// Carer or foster carer.
        Carer = "carer",
        /// The young person.
        YoungPerson = "young_person",
        /// Social worker.
        SocialWorker = "social_worker",
        /// A professional.
        Professional = "professional",
        /// Anyone else.
        Other = "other",
    }
    /// Whether contacting someone is safe.
    SafeToContact Unknown {
        /// Safe.
        Yes = "yes",
        /// Not safe: no contact may be made.
        No = "no",
        /// Safe only as the note says.
        WithCare = "with_care",
        /// Not recorded.
        Unknown = "unknown",
    }
    /// A format somebody can read.
    Format Standard {
        /// Standard print.
        Standard = "standard",
        /// Easy Read.
        EasyRead = "easy_read",
        /// Large print.
        LargePrint = "large_print",
        /// Braille.
        Braille = "braille",
        /// Audio.
        Audio = "audio",
    }
    /// A way to reach somebody.
    Channel Unspecified {
        /// Email.
        Email = "email",
        /// Text message.
        Sms = "sms",
        /// Letter.
        Letter = "letter",
        /// Telephone.
        Phone = "phone",
        /// No preference recorded.
        Unspecified = "unspecified",
    }
    /// Kind of setting.
    SettingKind None {
        /// Nursery or childminder.
        EarlyYears = "early_years",
        /// Primary school.
        Primary = "primary",
        /// Secondary school.
        Secondary = "secondary",
        /// College or training, 16 to 25.
        Post16 = "post_16",
        /// Special school.
        Special = "special",
        /// Alternative provision.
        AlternativeProvision = "alternative_provision",
        /// Educated at home.
        HomeEducated = "home_educated",
        /// None known.
        None = "none",
    }
    /// SEN provision (school census): E, K or N.
    SenProvision None {
        /// Education, health and care plan.
        EhcPlan = "E",
        /// SEN support.
        SenSupport = "K",
        /// None.
        None = "N",
    }
    /// Type of need (school census).
    NeedType Other {
        /// Autistic spectrum disorder.
        Autism = "ASD",
        /// Speech, language and communication.
        SpeechLanguage = "SLCN",
        /// Specific learning difficulty.
        SpecificLearning = "SPLD",
        /// Moderate learning difficulty.
        ModerateLearning = "MLD",
        /// Severe learning difficulty.
        SevereLearning = "SLD",
        /// Profound and multiple learning difficulty.
        ProfoundLearning = "PMLD",
        /// Social, emotional and mental health; ADHD is usually recorded here.
        SocialEmotional = "SEMH",
        /// Hearing impairment.
        Hearing = "HI",
        /// Vision impairment.
        Vision = "VI",
        /// Multi-sensory impairment.
        MultiSensory = "MSI",
        /// Physical disability.
        Physical = "PD",
        /// Other.
        Other = "OTH",
        /// SEN support but no specialist assessment of type.
        NotAssessed = "NSA",
        /// Down syndrome.
        Down = "DS",
    }
    /// How soon.
    Priority Routine {
        /// In turn.
        Routine = "routine",
        /// Sooner than in turn.
        Soon = "soon",
        /// Urgent.
        Urgent = "urgent",
        /// Now.
        Immediate = "immediate",
    }
    /// Whether a sense was checked.
    Tested Unknown {
        /// Checked.
        Yes = "yes",
        /// Not checked.
        No = "no",
        /// Not recorded.
        Unknown = "unknown",
    }
    /// Whether consent stands.
    ConsentStatus Given {
        /// Given.
        Given = "given",
        /// Asked and refused.
        Withheld = "withheld",
        /// Given and later withdrawn.
        Withdrawn = "withdrawn",
        /// Not asked, because asking would put the child at risk.
        NotSought = "not_sought",
    }
    /// Capacity in which consent was given.
    ConsentGiver Parent {
        /// A parent with parental responsibility.
        Parent = "parent_with_pr",
        /// The young person, from the end of compulsory school age or when competent.
        YoungPerson = "young_person",
        /// Somebody else with authority.
        Other = "other",
    }
    /// What consent covers.
    ConsentScope Referral {
        /// This referral.
        Referral = "referral",
        /// Sharing with health.
        ShareHealth = "share_health",
        /// Sharing with education.
        ShareEducation = "share_education",
        /// Sharing with social care.
        ShareSocialCare = "share_social_care",
        /// Messages to the family.
        FamilyMessages = "family_messages",
    }
    /// The lawful basis for sharing (UK GDPR articles 6 and 9).
    LawfulBasis PublicTaskCare {
        /// 6(1)(e) with 9(2)(h): care.
        PublicTaskCare = "public_task_care",
        /// 6(1)(e) with 9(2)(g), safeguarding of children and individuals at risk.
        Safeguarding = "safeguarding",
        /// 6(1)(c): a duty, such as advice for an EHC needs assessment.
        LegalObligation = "legal_obligation",
        /// 6(1)(d): to save life.
        VitalInterests = "vital_interests",
    }
}
