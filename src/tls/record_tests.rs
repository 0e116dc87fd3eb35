use super::*;

fn half(suite: Suite, key: &str, iv: &str, next_record: u64) -> Half {
    let mut padded = [0; KEY_BYTES_MAX];
    let key = bytes(key);
    padded[..key.len()].copy_from_slice(&key);
    Half { next_record, key: padded, iv: bytes(iv).try_into().unwrap(), suite }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// RFC 8448, 3: a connection with AES-128.
mod rfc_8448 {
    pub(super) const SERVER_KEY: &str = "9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56";
    pub(super) const SERVER_IV: &str = "cf 78 2b 88 dd 83 54 9a ad f1 e9 84";
    pub(super) const CLIENT_KEY: &str = "17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51";
    pub(super) const CLIENT_IV: &str = "5b 78 92 3d ee 08 57 90 33 e5 23 d9";
    /// The server's second record; the first one was a ticket.
    pub(super) const SERVER_DATA: &str = "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25
        d0 5f 82 aa 1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32
        54 0d d0 32 e1 67 c2 95 5d";
    pub(super) const SERVER_CLOSE_NOTIFY: &str =
        "17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9";
    pub(super) const CLIENT_DATA: &str = "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9
        14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea
        e6 3a ee bb 21 69 49 15 e4";
    pub(super) const CLIENT_CLOSE_NOTIFY: &str =
        "17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3";
}

fn sealed(sealing: &mut Sealing, content_type: ContentType, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    begin(&mut record);
    record.extend_from_slice(content);
    sealing.seal(content_type, &mut record).unwrap();
    assert_eq!(record.len(), content.len() + OVERHEAD_BYTES);
    record
}

fn opened(opening: &mut Opening, record: &[u8]) -> Result<(ContentType, Vec<u8>), BadRecord> {
    assert_eq!(record_len(record), Ok(Some(record.len())));
    let mut record = record.to_vec();
    opening.open(&mut record).map(|(content_type, length)| (content_type, record[..length].to_vec()))
}

/// Both ends of a connection, for tests of what seals and opens.
pub(crate) fn test_pair() -> (Sealing, Opening) {
    pair(Suite::Aes128Gcm, 0)
}

/// Both ends of a connection with these ciphers; `next_record` is the number of the next record.
fn pair(suite: Suite, next_record: u64) -> (Sealing, Opening) {
    let key = "0f".repeat(suite.algorithm().key_len());
    let half = || half(suite, &key, &"a5".repeat(NONCE_LEN), next_record);
    (Sealing(half()), Opening(half()))
}

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

#[test]
fn records_are_those_of_rfc_8448() {
    let content: Vec<u8> = (0..50).collect();
    let server = || half(Suite::Aes128Gcm, rfc_8448::SERVER_KEY, rfc_8448::SERVER_IV, 1);
    let client = || half(Suite::Aes128Gcm, rfc_8448::CLIENT_KEY, rfc_8448::CLIENT_IV, 0);
    for (half, data, end) in [
        (&server as &dyn Fn() -> Half, rfc_8448::SERVER_DATA, rfc_8448::SERVER_CLOSE_NOTIFY),
        (&client, rfc_8448::CLIENT_DATA, rfc_8448::CLIENT_CLOSE_NOTIFY),
    ] {
        let mut sealing = Sealing(half());
        assert_eq!(sealed(&mut sealing, ContentType::Data, &content), bytes(data));
        assert_eq!(sealed(&mut sealing, ContentType::Alert, &CLOSE_NOTIFY), bytes(end));
        let mut opening = Opening(half());
        assert_eq!(opened(&mut opening, &bytes(data)), Ok((ContentType::Data, content.clone())));
        assert_eq!(opened(&mut opening, &bytes(end)), Ok((ContentType::Alert, CLOSE_NOTIFY.to_vec())));
    }
}

#[test]
fn what_is_sealed_is_opened_in_order_and_only_in_order() {
    for suite in SUITES {
        let (mut sealing, mut opening) = pair(suite, 0);
        let records: Vec<_> = [0, 1, 200, CONTENT_BYTES_MAX]
            .map(|length| vec![b'x'; length])
            .map(|content| (sealed(&mut sealing, ContentType::Data, &content), content))
            .into();
        for (record, content) in &records {
            assert_eq!(opened(&mut opening, record), Ok((ContentType::Data, content.clone())));
        }
        let (_, mut opening) = pair(suite, 0);
        assert_eq!(opened(&mut opening, &records[1].0), Err(BadRecord::NotAuthentic));
        let (_, mut opening) = pair(suite, 0);
        assert!(opened(&mut opening, &records[0].0).is_ok());
        assert_eq!(opened(&mut opening, &records[0].0), Err(BadRecord::NotAuthentic), "a record that is repeated");
    }
}

#[test]
fn no_two_records_are_sealed_alike() {
    let (mut sealing, _) = pair(Suite::Aes128Gcm, 0);
    let records: std::collections::BTreeSet<_> =
        (0..1000).map(|_| sealed(&mut sealing, ContentType::Data, b"the same")).collect();
    assert_eq!(records.len(), 1000);
}

#[test]
fn a_bit_that_is_flipped_anywhere_is_found() {
    for suite in SUITES {
        let (mut sealing, _) = pair(suite, 7);
        let record = sealed(&mut sealing, ContentType::Data, b"data: x\n\n");
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (_, mut opening) = pair(suite, 7);
            assert_eq!(opening.open(&mut changed), Err(BadRecord::NotAuthentic), "bit {bit}");
        }
    }
}

/// Seals what no sealing end of ours would: this content, type and padding.
fn sealed_freely(half: &mut Half, inner: &[u8]) -> Vec<u8> {
    let header = header((inner.len() + TAG_BYTES) as u16);
    let mut encrypted = inner.to_vec();
    let (cipher, nonce) = (half.cipher(), half.take_nonce());
    cipher.seal_in_place_append_tag(nonce, Aad::from(header), &mut encrypted).unwrap();
    [&header[..], &encrypted].concat()
}

#[test]
fn padding_is_removed_and_what_is_only_padding_is_refused() {
    let open = |inner: &[u8]| {
        let (mut sealing, mut opening) = pair(Suite::Aes256Gcm, 0);
        opened(&mut opening, &sealed_freely(&mut sealing.0, inner))
    };
    assert_eq!(open(b"ab\x17"), Ok((ContentType::Data, b"ab".to_vec())));
    assert_eq!(open(b"ab\x17\0\0\0"), Ok((ContentType::Data, b"ab".to_vec())));
    assert_eq!(open(b"a\0b\0\x16\0"), Ok((ContentType::Handshake, b"a\0b\0".to_vec())));
    assert_eq!(open(b"\x17"), Ok((ContentType::Data, Vec::new())));
    for nothing in [&b"\0"[..], &[0; 300], b"ab\x14", b"ab\x18"] {
        assert_eq!(open(nothing), Err(BadRecord::Unexpected), "{nothing:?}");
    }
    let mut longest = vec![b'x'; CONTENT_BYTES_MAX];
    longest.push(23);
    longest.resize(CONTENT_BYTES_MAX + EXPANSION_BYTES_MAX - TAG_BYTES, 0);
    assert!(open(&longest).is_ok());
    longest[CONTENT_BYTES_MAX] = b'x';
    longest[CONTENT_BYTES_MAX + 1] = 23;
    assert_eq!(open(&longest), Err(BadRecord::TooLong));
}

#[test]
fn a_header_says_how_long_its_record_is() {
    let len = |header: &[u8]| record_len(header);
    assert_eq!(len(&[]), Ok(None));
    assert_eq!(len(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(len(&[23, 3, 3, 0, 17]), Ok(Some(22)));
    assert_eq!(len(&[23, 3, 3, 0x41, 0]), Ok(Some(RECORD_BYTES_MAX)));
    assert_eq!(len(&[23, 3, 3, 0x41, 1]), Err(BadRecord::TooLong));
    for unexpected in [20, 21, 22, 24, 0, b'G'] {
        assert_eq!(len(&[unexpected, 3, 3, 0, 17]), Err(BadRecord::Unexpected));
    }
    let (_, mut opening) = pair(Suite::Aes128Gcm, 0);
    for body_bytes in 0..=TAG_BYTES {
        let mut short = [header(body_bytes as u16).to_vec(), vec![0; body_bytes]].concat();
        assert_eq!(opening.open(&mut short), Err(BadRecord::TooShort));
    }
}

#[test]
fn a_key_wears_and_is_used_up() {
    let (mut sealing, _) = pair(Suite::Aes128Gcm, RECORDS_WORN - 2);
    for is_last in [false, true, false] {
        sealed(&mut sealing, ContentType::Data, b"x");
        assert_eq!(sealing.has_just_worn(), is_last);
    }
    let (mut sealing, _) = pair(Suite::Aes128Gcm, RECORDS_MAX - 1);
    sealed(&mut sealing, ContentType::Data, b"x");
    let mut record = Vec::new();
    begin(&mut record);
    assert_eq!(sealing.seal(ContentType::Data, &mut record), Err(UsedUp));
}

#[test]
fn a_connection_keeps_little_and_shows_no_key() {
    assert_eq!(size_of::<Keys>(), 112);
    let (sealing, _) = pair(Suite::Aes128Gcm, 3);
    assert_eq!(format!("{sealing:?}"), "Sealing(Half { next_record: 3, .. })");
}
