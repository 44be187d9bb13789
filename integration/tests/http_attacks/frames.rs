//! HTTP/2 frames by hand (RFC 9113 §4, §6), their header blocks in HPACK without compression (RFC 7541 §6.2).

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// The newest entry of the dynamic table, as an indexed field (RFC 7541 §6.1).
pub const FIRST_DYNAMIC: u8 = 0x80 | 62;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says first, with these settings.
pub fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &settings)].concat()
}

/// The client's streams, in order.
pub fn stream(turn: u32) -> u32 {
    turn * 2 + 1
}

pub fn headers(stream: u32, block: &[u8], flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub fn get(path: &str) -> Vec<u8> {
    request("GET", path)
}

pub fn post(path: &str) -> Vec<u8> {
    request("POST", path)
}

fn request(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")]
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

/// A field that is not kept in the table.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    [vec![0], string(name), string(value)].concat()
}

/// A field of so many bytes that is kept in the table.
pub fn indexed_header(bytes: usize) -> Vec<u8> {
    [vec![0x40], string("x"), string(&"v".repeat(bytes))].concat()
}

/// A field of so many bytes.
pub fn padding_header(bytes: usize) -> Vec<u8> {
    literal("x", &"v".repeat(bytes))
}

/// RFC 7541 §5.1 and §5.2, with a prefix of seven bits and without Huffman's code.
fn string(text: &str) -> Vec<u8> {
    let mut length = Vec::new();
    match u8::try_from(text.len()) {
        Ok(short) if short < 127 => length.push(short),
        _ => {
            let mut rest = text.len() - 127;
            length.push(127);
            while rest >= 128 {
                length.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            length.push(u8::try_from(rest).unwrap());
        }
    }
    [length, text.as_bytes().to_vec()].concat()
}
