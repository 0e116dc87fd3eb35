//! Credentials: files of secrets that systemd hands to a service (systemd.exec(5)). An option NAME-file that no other
//! layer sets takes the credential NAME.

use std::path::PathBuf;

use super::layers::{Environment, OFF};

/// The variable that holds the folder of the credentials.
const DIRECTORY_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// The folder of this service's credentials, if any.
#[derive(Debug, Default)]
pub(super) struct Credentials(Option<PathBuf>);

impl Credentials {
    /// The credentials that the environment names.
    pub(super) fn of(env: &Environment) -> Credentials {
        Credentials(env.get(DIRECTORY_VARIABLE).map(PathBuf::from))
    }

    /// The credential for an option. A credential that holds the word `off` counts as absent: a unit can give it in
    /// place of a missing file. An empty credential counts, and is refused like any empty file of secrets.
    pub(super) fn for_option(&self, name: &str) -> Option<PathBuf> {
        let path = self.0.as_ref()?.join(name.strip_suffix("-file")?);
        let is_off = || std::fs::read(&path).is_ok_and(|text| text.trim_ascii() == OFF.as_bytes());
        (path.exists() && !is_off()).then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Environment, Flags, Loaded, Secret};

    #[test]
    fn an_unset_option_takes_the_credential_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let load = |more: &[(&str, &str)]| {
            let directory = ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
            let all = more.iter().chain([&directory]);
            let env: Environment = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Loaded::new(&Flags::new(), None, &env)
        };
        let tokens = |loaded: &Loaded| -> Vec<String> {
            loaded.config.security.publish_tokens.iter().map(|token| Secret::expose(token).to_owned()).collect()
        };
        assert_eq!(tokens(&load(&[]).unwrap()), [""; 0], "there is none");
        put("publish-token", "abc\n");
        put("operator-token", "off\n");
        let loaded = load(&[]).unwrap();
        assert_eq!(tokens(&loaded), ["abc"]);
        assert!(loaded.to_toml().contains("/publish-token\" # credential"), "{}", loaded.to_toml());
        assert!(loaded.config.security.operator_tokens.is_empty(), "off is none");
        put("other", "def");
        let other = folder.path().join("other");
        let set = load(&[("FANFARE_PUBLISH_TOKEN_FILE", other.to_str().unwrap())]).unwrap();
        assert_eq!(tokens(&set), ["def"], "what is set wins");
        put("publish-token", "");
        let refused = load(&[]).unwrap_err().to_string();
        assert!(refused.contains("(a credential)") && refused.contains("holds no secret"), "{refused}");
    }
}
