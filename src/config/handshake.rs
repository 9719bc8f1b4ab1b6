//! Whether receivers are asked first if they want callbacks, and how.

use clap::{Args, ValueEnum};

use super::ConfigError;
use crate::courier::{Form, RequestOrigin};

/// What the operator sets about asking receivers.
#[derive(Args, Clone, Debug)]
pub struct HandshakeSettings {
    /// Ask each receiver whether it wants callbacks, before the first registration of a caller for its
    /// origin is accepted: `graph`, to send a token back as for Graph's change notifications, or
    /// `cloudEvents`, by OPTIONS as in HTTP 1.1 Web Hooks for Event Delivery. Or `off`.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CALLBACK_HANDSHAKE",
        value_enum,
        default_value = "off",
        hide_possible_values = true,
        value_name = "FORM"
    )]
    pub callback_handshake: HandshakeForm,

    /// The DNS name that receivers know this bridge by, such as bridge.example.com. Each callback then
    /// carries it in `WebHook-Request-Origin`. Needed for `--callback-handshake cloudEvents`.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_CALLBACK_REQUEST_ORIGIN", value_name = "NAME")]
    pub callback_request_origin: Option<RequestOrigin>,
}

/// How receivers are asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum HandshakeForm {
    Off,
    Graph,
    CloudEvents,
}

impl HandshakeSettings {
    /// What receivers are asked; `None` where they are not.
    pub fn form(&self) -> Result<Option<Form>, ConfigError> {
        match (self.callback_handshake, &self.callback_request_origin) {
            (HandshakeForm::Off, _) => Ok(None),
            (HandshakeForm::Graph, _) => Ok(Some(Form::Graph)),
            (HandshakeForm::CloudEvents, Some(origin)) => {
                Ok(Some(Form::CloudEvents(origin.clone())))
            }
            (HandshakeForm::CloudEvents, None) => Err(ConfigError::NoRequestOrigin),
        }
    }
}
