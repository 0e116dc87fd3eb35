//! A configuration file: refused with words, or what `--print-config` makes of it means the same.

use std::path::Path;

use fanfare::config::{ConfigError, ConfigFile, Environment, Flags, Options, Settings};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok((settings, options)) = read(text) else { return };
    let printed = settings.to_toml();
    let (again, options_again) = read(&printed).unwrap_or_else(|error| panic!("{error}, in\n{printed}"));
    assert_eq!(format!("{options_again:?}"), format!("{options:?}"), "{printed}");
    let printed_again = read(&again.to_toml()).expect("it was read before").0.to_toml();
    assert_eq!(printed_again, again.to_toml());
}

fn read(text: &str) -> Result<(Settings, Options), ConfigError> {
    let file = ConfigFile::parse(Path::new("fuzz.toml"), text)?;
    let settings = Settings::merge(&Flags::new(), &Environment::new(), Some(&file))?;
    let options = settings.read()?;
    Ok((settings, options))
}
