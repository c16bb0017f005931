//! How types of the crates below are written down: by the words that the command line has for them.

/// A module for `#[serde(with = "..")]` on a field of `$type`.
macro_rules! words {
    ($(#[$doc:meta])* $module:ident, $type:ident in $from:ident: $($variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use serde::de::Error as _;
            use serde::{Deserialize as _, Deserializer, Serializer};

            use $from::$type;

            pub(crate) fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match value {
                    $($type::$variant => $word,)+
                })
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    $($word => Ok($type::$variant),)+
                    other => Err(D::Error::unknown_variant(other, &[$($word),+])),
                }
            }
        }
    };
}

words!(violation, ViolationAction in msb_secrets:
    Block = "block",
    BlockAndLog = "block-and-log",
    BlockAndTerminate = "block-and-terminate",
);
words!(denied_requests, DeniedRequests in msb_tls_proxy: Forbid = "forbid", Reset = "reset");
words!(non_http, NonHttp in msb_tls_proxy: Relay = "relay", Refuse = "refuse");
words!(scope, InterceptScope in msb_tls_proxy: All = "all", NamedHosts = "named-hosts");

/// An [`Action`](msb_policy::Action), or none.
pub(crate) mod action {
    use msb_policy::Action;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Action>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Action::to_string).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Action>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let parsed = text.map(|text| text.parse::<Action>());
        parsed.transpose().map_err(D::Error::custom)
    }
}

/// An [`AcceleratorChoice`](msb_vmm::AcceleratorChoice).
pub(crate) mod accelerator {
    use msb_vmm::{Accelerator, AcceleratorChoice};
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        value: &AcceleratorChoice,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match value {
            AcceleratorChoice::Auto => "auto",
            AcceleratorChoice::Fixed(Accelerator::Kvm) => "kvm",
            AcceleratorChoice::Fixed(Accelerator::Tcg) => "tcg",
        })
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<AcceleratorChoice, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
