//! Reloading: the server reads everything again, and applies what can change without dropping a client. Other options
//! keep their values of the start, and a warning names each one that differs.

use std::collections::BTreeSet;
use std::path::Path;

use super::layers::{Environment, Flags, Settings, command};
use super::options::RELOADABLE;
use super::{ConfigError, Loaded, duration_text};

/// The names of the options that a reload changes.
fn reloadable() -> BTreeSet<String> {
    let mut command = command();
    command.build();
    let group = command.get_groups().find(|group| group.get_id() == RELOADABLE).expect("the options declare it");
    group.get_args().map(ToString::to_string).collect()
}

impl Loaded {
    /// Reads everything again. An error changes nothing. An option that needs a restart keeps its value, with a
    /// warning.
    pub fn reload(&self, flags: &Flags, config_file: Option<&Path>, env: &Environment) -> Result<Loaded, ConfigError> {
        // The new configuration as a whole first: an error must show now, not at the next restart.
        let newest = Loaded::new(flags, config_file, env)?;
        let (settings, mut waiting) = self.settings.take_live(&newest.settings);
        let (tables, has_new_channels) = self.tables.take_live(newest.tables);
        waiting.extend(has_new_channels.then(|| "the new content of [[channels]]".to_owned()));
        let mut loaded = Loaded::from_settings(settings, tables, env)?;
        loaded.warnings.extend(waiting.iter().map(|setting| format!("{setting} takes effect with a restart")));
        loaded.keep_engines(self);
        loaded.keep_user_timeout(self);
        Ok(loaded)
    }

    /// Listeners keep the user timeout of the start, even if it follows options that a reload changes.
    fn keep_user_timeout(&mut self, current: &Loaded) {
        let (new, kept) = (self.config.tcp_user_timeout, current.config.tcp_user_timeout);
        if new != kept {
            let [new, kept] = [new, kept].map(duration_text);
            self.warnings
                .push(format!("tcp-user-timeout stays {kept}; {new}, which follows, takes effect with a restart"));
        }
        self.config.tcp_user_timeout = current.config.tcp_user_timeout;
    }

    /// Keeps the Redis and the PostgreSQL of the start, and warns when the content of their files has changed.
    fn keep_engines(&mut self, current: &Loaded) {
        let mut files = Vec::new();
        if let (Some(new), Some(current)) = (&self.config.redis, &current.config.redis) {
            // The options are those of the start: the URLs can differ only in the password that was inserted.
            files.push(("the new password for Redis", new.url != current.url));
            files.push(("the new content of redis-tls-ca", new.tls_ca != current.tls_ca));
        }
        if let (Some(new), Some(current)) = (&self.config.postgres, &current.config.postgres) {
            files.push(("the new password for PostgreSQL", new.password != current.password));
            files.push(("the new content of postgres-tls-ca", new.tls_ca != current.tls_ca));
        }
        let changed = files.into_iter().filter(|(_, differs)| *differs);
        self.warnings.extend(changed.map(|(what, _)| format!("{what} takes effect with a restart")));
        self.config.redis.clone_from(&current.config.redis);
        self.config.postgres.clone_from(&current.config.postgres);
    }
}

impl Settings {
    /// These settings with the reloadable ones of `newest`, and the other settings of `newest` that differ.
    fn take_live(&self, newest: &Settings) -> (Settings, Vec<String>) {
        let (reloadable, mut waiting) = (reloadable(), Vec::new());
        let settings = self.iter().zip(newest.iter()).map(|(current, new)| {
            if reloadable.contains(&new.name) {
                return new.clone();
            }
            if !current.has_same_value_as(new) {
                waiting.push(new.to_string());
            }
            current.clone()
        });
        (Settings::from_iter(settings), waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(env: &[(&str, &str)]) -> Loaded {
        Loaded::new(&Flags::new(), None, &environment(env)).unwrap()
    }

    fn environment(env: &[(&str, &str)]) -> Environment {
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The result of a reload from one environment to another.
    fn reload(from: &[(&str, &str)], to: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        loaded(from).reload(&Flags::new(), None, &environment(to))
    }

    #[test]
    fn options_of_both_kinds_are_known() {
        let reloadable = reloadable();
        let has = |name: &str| reloadable.contains(name);
        assert!(has("retry") && has("jwt-key-file") && has("log-level"), "{reloadable:?}");
        assert!(!has("listen") && !has("max-topics") && !has("redis-url"), "{reloadable:?}");
    }

    #[test]
    fn what_is_live_changes_and_what_is_not_stays_and_is_named() {
        let before = [("FANFARE_RETRY", "1s"), ("FANFARE_LISTEN", "127.0.0.1:1"), ("FANFARE_MAX_TOPICS", "5")];
        let after = [("FANFARE_RETRY", "2s"), ("FANFARE_LISTEN", "127.0.0.1:2"), ("FANFARE_MAX_TOPICS", "5")];
        let reloaded = reload(&before, &after).unwrap();
        assert_eq!(reloaded.config.delivery.retry.as_secs(), 2);
        assert_eq!(reloaded.config.listen.public[0].to_string(), "127.0.0.1:1");
        assert_eq!(reloaded.warnings, ["FANFARE_LISTEN=127.0.0.1:2 takes effect with a restart"]);
        // Every reload until that restart repeats the warning.
        let again = reloaded.reload(&Flags::new(), None, &environment(&after)).unwrap();
        assert_eq!(again.warnings.len(), 1);
        assert_eq!(reload(&before, &before).unwrap().warnings, [""; 0]);
    }

    #[test]
    fn what_is_wrong_or_does_not_go_with_what_stays_is_refused() {
        let check = |from: &[(&str, &str)], to: &[(&str, &str)], words: &str| {
            let refused = reload(from, to).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        };
        check(&[], &[("FANFARE_RETRY", "soon")], "FANFARE_RETRY=soon");
        check(&[], &[("FANFARE_MAX_TOPICS", "0")], "FANFARE_MAX_TOPICS=0");
        // The new environment alone is valid, but not together with the kernel's timeout, which stays until a restart.
        let longer = [("FANFARE_STALL_TIMEOUT", "100s"), ("FANFARE_TCP_USER_TIMEOUT", "5m")];
        check(&[("FANFARE_TCP_USER_TIMEOUT", "90s")], &longer, "tcp-user-timeout");
    }

    #[test]
    fn a_user_timeout_that_follows_another_option_follows_it_at_the_next_start() {
        let reloaded = reload(&[], &[("FANFARE_HEARTBEAT", "10m")]).unwrap();
        assert_eq!(reloaded.config.tcp_user_timeout.as_secs(), 120);
        let expected = "tcp-user-timeout stays 2m; 20m, which follows, takes effect with a restart";
        assert_eq!(reloaded.warnings, [expected]);
        let (before, after) = ([("FANFARE_RETRY", "1s")], [("FANFARE_RETRY", "2s")]);
        assert_eq!(reload(&before, &after).unwrap().warnings, [""; 0]);
    }

    #[test]
    fn a_new_password_for_redis_gets_a_warning_at_every_reload_until_the_restart() {
        let env = |password, topics_max| {
            [("REDIS_URL", "redis://host"), ("FANFARE_REDIS_PASSWORD", password), ("FANFARE_MAX_TOPICS", topics_max)]
        };
        let password = "the new password for Redis takes effect with a restart";
        let mut reloaded = loaded(&env("a", "5"));
        let mut check = |password, topics_max, expected: &[&str]| {
            reloaded = reloaded.reload(&Flags::new(), None, &environment(&env(password, topics_max))).unwrap();
            assert_eq!(reloaded.warnings, expected);
        };
        check("a", "5", &[]);
        check("b", "5", &[password]);
        check("b", "5", &[password]);
        check("b", "6", &["FANFARE_MAX_TOPICS=6 takes effect with a restart", password]);
        check("a", "5", &[]);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn new_files_for_postgresql_get_a_warning_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [password, ca] = ["password", "ca"].map(|name| folder.path().join(name));
        let env = [
            ("FANFARE_BUS", "postgres"),
            ("FANFARE_POSTGRES_URL", "postgres://host/d?sslmode=require"),
            ("FANFARE_POSTGRES_PASSWORD_FILE", password.to_str().unwrap()),
            ("FANFARE_POSTGRES_TLS_CA", ca.to_str().unwrap()),
        ];
        let write = |text: &str| [&password, &ca].map(|path| std::fs::write(path, text).unwrap());
        write("a");
        let current = loaded(&env);
        write("b");
        let warnings = ["the new password for PostgreSQL", "the new content of postgres-tls-ca"];
        for expected in [&warnings[..], &[]] {
            let reloaded = current.reload(&Flags::new(), None, &environment(&env)).unwrap();
            let of_files = reloaded.warnings.iter().filter(|warning| warning.ends_with("restart"));
            let expected: Vec<_> = expected.iter().map(|what| format!("{what} takes effect with a restart")).collect();
            assert_eq!(of_files.collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
            let kept = reloaded.config.postgres.unwrap();
            assert_eq!((kept.password.unwrap().expose(), kept.tls_ca.as_deref()), ("a", Some(&b"a"[..])));
            write("a");
        }
    }
}
