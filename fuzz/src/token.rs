//! JSON Web Tokens: nothing that is shown breaks the reader, what is signed by no key is refused, and whatever signed
//! claims say is granted or refused; the same bytes as a file of keys are read or refused.

use std::time::Duration;

use fanfare::auth::{Grants, Keys, Patterns, Verifier};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::value::RawValue;

const SECRET: &str = "the-secret-of-the-fuzz-target-0123456789";
/// Keys of every other kind, so that every reader of signatures is reached.
const JWKS: &str = r#"{"keys":[
    {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
]}"#;

pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let now = Duration::from_secs(1_800_000_000);
    let mut keys = Keys::from_secret(SECRET).unwrap();
    keys.extend(Keys::read(JWKS).unwrap()).unwrap();
    let verifier = Verifier::new(keys, &[], &[]);
    assert!(verifier.verify(&text, now).is_err(), "nobody signed this");

    if let Ok(claims) = serde_json::from_str::<&RawValue>(&text) {
        let signed = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()));
        if let Ok(verified) = verifier.verify(&signed.unwrap(), now) {
            assert!(verified.expires_at > now, "{verified:?}");
            // Where nobody looks, a number may stand that is too large for one.
            let Ok(said) = serde_json::from_str::<serde_json::Value>(claims.get()) else { return };
            let granted = |name: &str| said["fanfare"][name].as_array().is_some_and(|patterns| !patterns.is_empty());
            let Grants { subscribe, publish, operator } = &verified.grants;
            assert_eq!([!subscribe.is_empty(), !publish.is_empty()], [granted("subscribe"), granted("publish")]);
            assert_eq!(*operator, said["fanfare"]["operator"] == true);
        }
    }
    if let Ok(keys) = Keys::read(&text) {
        assert!(!keys.is_empty() && !format!("{keys:?}").contains(text.trim()));
    }
    let (pattern, topic) = text.split_once('\n').unwrap_or((&text, ""));
    let covers = Patterns::new([pattern]).cover(topic);
    assert!(!covers || topic.starts_with(pattern.trim_end_matches('*')), "{pattern:?} covers {topic:?}");
}
