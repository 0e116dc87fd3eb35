//! A configuration file: refused with words, or what `--print-config` makes of it means the same.

use std::path::Path;

use fanfare::config::{ConfigError, ConfigFile, Environment, Flags, Options, Settings, Tables};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok((printed, values)) = read(text) else { return };
    let (printed_again, values_again) = read(&printed).unwrap_or_else(|error| panic!("{error}, in\n{printed}"));
    assert_eq!(values_again, values, "{printed}");
    assert_eq!(read(&printed_again).expect("it was read before").0, printed_again);
}

/// The file that is printed for a file, and what it means.
fn read(text: &str) -> Result<(String, String), ConfigError> {
    let file = ConfigFile::parse(Path::new("fuzz.toml"), text)?;
    let settings = Settings::merge(&Flags::new(), &Environment::new(), Some(&file))?;
    let options: Options = settings.read()?;
    let tables = Tables::read(Some(&file))?;
    let channels: Vec<_> = tables.channels.iter().map(|table| &table.values).collect();
    let topics: Vec<_> = tables.topics.iter().map(|table| &table.values).collect();
    Ok((settings.to_toml() + &tables.to_toml(), format!("{options:?} {channels:?} {topics:?}")))
}
