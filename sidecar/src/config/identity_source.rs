//! `[identity]`: from a CA or from files, never from both.

use std::ops::Range;

use toml::Spanned;

use super::raw::RawIdentity;
use super::rules::Rules;
use super::values::parse_ca;
use super::{IdentitySource, JoinTokenSource};

impl Rules<'_> {
    pub(super) fn identity(&mut self, raw: Spanned<RawIdentity>) -> Option<IdentitySource> {
        let (section, raw) = (raw.span(), raw.into_inner());
        let files =
            [("svid_file", &raw.svid_file), ("key_file", &raw.key_file), ("bundle_file", &raw.bundle_file)];
        let Some((file, _)) = files.iter().find(|(_, value)| value.is_some()) else {
            return self.identity_from_ca(section, raw);
        };
        let others = [
            ("ca", &raw.ca),
            ("join_token_file", &raw.join_token_file),
            ("join_token_env", &raw.join_token_env),
            ("state_dir", &raw.state_dir),
        ];
        for (key, value) in others {
            if let Some(value) = value {
                let rule =
                    format!("does not go together with {file}: an identity comes from a CA or from files");
                self.refuse_value::<()>(&format!("identity.{key}"), value, &rule);
            }
        }
        for (key, value) in files {
            if value.is_none() {
                let rule = "is missing: svid_file, key_file and bundle_file belong together";
                self.refuse::<()>(section.clone(), &format!("identity.{key}"), rule);
            }
        }
        let svid = self.path("identity.svid_file", raw.svid_file);
        let key = self.path("identity.key_file", raw.key_file);
        let bundle = self.path("identity.bundle_file", raw.bundle_file);
        Some(IdentitySource::Files { svid: svid?, key: key?, bundle: bundle? })
    }

    fn identity_from_ca(&mut self, section: Range<usize>, raw: RawIdentity) -> Option<IdentitySource> {
        let ca = match raw.ca {
            Some(ca) => match parse_ca(ca.as_ref()) {
                Ok(ca) => Some(ca),
                Err(rule) => self.refuse_value("identity.ca", &ca, rule),
            },
            None => self.refuse(
                section.clone(),
                "identity.ca",
                "is missing; or give svid_file, key_file and bundle_file",
            ),
        };
        let join_token = match (raw.join_token_file, raw.join_token_env) {
            (Some(_), Some(env)) => self.refuse_value(
                "identity.join_token_env",
                &env,
                "does not go together with join_token_file",
            ),
            (Some(file), None) => {
                self.path("identity.join_token_file", Some(file)).map(JoinTokenSource::File)
            }
            (None, Some(env)) => self.environment_variable(env).map(JoinTokenSource::Env),
            (None, None) if raw.state_dir.is_none() => {
                let rule = "is missing: without a join token and without a state_dir it could never enrol";
                self.refuse(section, "identity.join_token_file", rule)
            }
            (None, None) => None,
        };
        let state_dir = self.path("identity.state_dir", raw.state_dir);
        Some(IdentitySource::Ca { ca: ca?, join_token, state_dir })
    }

    fn environment_variable(&mut self, name: Spanned<String>) -> Option<String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.as_ref().is_empty() || !name.as_ref().bytes().all(allowed) {
            let rule = "must be the name of an environment variable: letters, digits and _";
            return self.refuse_value("identity.join_token_env", &name, rule);
        }
        Some(name.into_inner())
    }
}
