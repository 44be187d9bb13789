//! Whether a point is one that a key can have. Public values alone: nothing here needs to take the same time for all.

use std::fmt;

use x509_parser::num_bigint::BigUint;

/// A curve y² = x³ - 3x + b over a prime field (NIST SP 800-186 §3.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

const P256_PRIME: &[u8] = b"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
const P256_B: &[u8] = b"5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b";
const P384_PRIME: &[u8] =
    b"fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff";
const P384_B: &[u8] =
    b"b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef";
/// 2²⁵⁵ - 19.
const ED25519_PRIME: &[u8] = b"7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed";
/// RFC 8032 §5.1: -121665/121666.
const ED25519_D: &[u8] = b"52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3";
/// The y coordinates of the points of order eight; those of order one, two and four are 1, -1 and 0.
const ED25519_ORDER_8: [&[u8]; 2] = [
    b"05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826",
    b"7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7",
];

impl Curve {
    pub(super) fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        })
    }
}

/// Whether the two coordinates, big endian, are those of a point on the curve (SEC 1 §3.2.2.1).
pub(super) fn is_on_curve(curve: Curve, point: &[u8]) -> bool {
    let (prime, b) = match curve {
        Curve::P256 => (number(P256_PRIME), number(P256_B)),
        Curve::P384 => (number(P384_PRIME), number(P384_B)),
    };
    let Some((x, y)) = point.split_at_checked(curve.coordinate_bytes()) else { return false };
    let (x, y) = (BigUint::from_bytes_be(x), BigUint::from_bytes_be(y));
    if x >= prime || y >= prime {
        return false;
    }
    let three = BigUint::from(3_u8);
    // With 3·p added, the subtraction of 3x stays positive.
    let right = &x * &x * &x + &three * &prime + b - three * &x;
    (&y * &y) % &prime == right % &prime
}

/// Whether a key of Ed25519 decodes to a point (RFC 8032 §5.1.3), canonically, and not to one of small order: for such
/// a key everybody can make signatures.
pub(super) fn is_ed25519_key(mut key: [u8; 32]) -> bool {
    // The highest bit is the sign of x.
    if let Some(last) = key.last_mut() {
        *last &= 0x7f;
    }
    let (prime, one, y) = (number(ED25519_PRIME), BigUint::from(1_u8), BigUint::from_bytes_le(&key));
    let small_order = ED25519_ORDER_8.map(number).contains(&y) || y <= one || y == &prime - &one;
    if y >= prime || small_order {
        return false;
    }
    // x² = (y² - 1) / (d·y² + 1) has a root where the product of the two has one (Euler's criterion).
    let square = &y * &y % &prime;
    let product = (&square - &one) * (number(ED25519_D) * &square + &one) % &prime;
    product.modpow(&((&prime - &one) >> 1), &prime) == one
}

fn number(hex: &[u8]) -> BigUint {
    BigUint::parse_bytes(hex, 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair as _,
    };

    use super::*;

    #[test]
    fn every_point_of_a_key_is_on_its_curve_and_no_neighbour_is() {
        let kinds =
            [(Curve::P256, &ECDSA_P256_SHA256_ASN1_SIGNING), (Curve::P384, &ECDSA_P384_SHA384_ASN1_SIGNING)];
        for (curve, signing) in kinds {
            for _ in 0..20 {
                let random = SystemRandom::new();
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
                let point = &pair.public_key().as_ref()[1..];
                assert!(is_on_curve(curve, point));
                for bit in [0, 7, 100, point.len() * 8 - 1] {
                    let mut other = point.to_vec();
                    other[bit / 8] ^= 1 << (bit % 8);
                    assert!(!is_on_curve(curve, &other), "{curve}, bit {bit}");
                }
            }
        }
        assert!(!is_on_curve(Curve::P256, &[0; 64]));
        assert!(!is_on_curve(Curve::P384, &[0; 96]));
    }

    #[test]
    fn a_coordinate_is_below_the_prime() {
        // (0, √b) is on P-256; p + 0 is another way to write its x.
        let y = hex("66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4");
        assert!(is_on_curve(Curve::P256, &[vec![0; 32], y.clone()].concat()));
        assert!(!is_on_curve(Curve::P256, &[number(P256_PRIME).to_bytes_be(), y].concat()));
    }

    #[test]
    fn keys_of_ed25519_are_taken_and_points_of_small_order_are_not() {
        for _ in 0..20 {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
            assert!(is_ed25519_key(pair.public_key().as_ref().try_into().unwrap()));
        }
        let prime = number(ED25519_PRIME);
        let of_order_8 = ED25519_ORDER_8.map(number);
        let small = [BigUint::from(0_u8), BigUint::from(1_u8), &prime - 1_u8, prime.clone(), &prime + 1_u8];
        for y in small.iter().chain(&of_order_8) {
            for sign in [0, 0x80] {
                let mut key: [u8; 32] = y
                    .to_bytes_le()
                    .into_iter()
                    .chain([0; 32])
                    .take(32)
                    .collect::<Vec<_>>()
                    .try_into()
                    .unwrap();
                key[31] |= sign;
                assert!(!is_ed25519_key(key), "{key:x?}");
            }
        }
        // No x has this y.
        let mut none = [0; 32];
        none[0] = 2;
        assert!(!is_ed25519_key(none));
    }

    fn hex(text: &str) -> Vec<u8> {
        number(text.as_bytes()).to_bytes_be()
    }
}
