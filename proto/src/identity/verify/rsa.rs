//! Whether the numbers of an RSA key are those of a key (RFC 8017 §3.1).

use x509_parser::num_bigint::BigUint;

const BITS_MIN: u64 = 2048;
const BITS_MAX: u64 = 8192;
/// TLS libraries take no longer exponent.
const EXPONENT_BITS_MAX: u64 = 33;
/// No prime of a modulus is smaller: one that has such a divisor was made by mistake, and is factored at once.
const DIVISOR_MAX: u32 = 751;

/// Checks the contents of the two INTEGERs.
pub(super) fn check_numbers(modulus: &[u8], exponent: &[u8]) -> Result<(), String> {
    let (Some(modulus), Some(exponent)) = (positive(modulus), positive(exponent)) else {
        return Err("malformed RSA".to_owned());
    };
    if !(BITS_MIN..=BITS_MAX).contains(&modulus.bits()) {
        return Err(format!("RSA of {} bits", modulus.bits()));
    }
    if !exponent.bit(0) || exponent.bits() < 2 || exponent.bits() > EXPONENT_BITS_MAX {
        return Err(format!(
            "RSA with an exponent that is even, 1, or of more than {EXPONENT_BITS_MAX} bits"
        ));
    }
    let divides = |divisor: &u32| &modulus % *divisor == BigUint::default();
    match std::iter::once(2).chain((3..=DIVISOR_MAX).step_by(2)).find(divides) {
        Some(divisor) => Err(format!("RSA with a modulus that {divisor} divides")),
        None => Ok(()),
    }
}

/// A positive number in the one way that DER writes it (X.690 §8.3.2).
fn positive(integer: &[u8]) -> Option<BigUint> {
    match integer {
        [] | [0] => None,
        [0, second, ..] if *second < 0x80 => None,
        [first, ..] if *first >= 0x80 => None,
        number => Some(BigUint::from_bytes_be(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: &[u8] = &[1, 0, 1];

    /// 2^2047 and this, which is odd and has no small divisor where `low` is right.
    fn modulus(low: u8) -> Vec<u8> {
        let mut bytes = vec![0; 257];
        bytes[1] = 0x80;
        bytes[256] = low;
        bytes
    }

    #[test]
    fn a_modulus_without_small_divisors_and_a_customary_exponent_are_taken() {
        let good = (1..=255).step_by(2).filter(|low| check_numbers(&modulus(*low), E).is_ok()).count();
        assert!((10..60).contains(&good), "{good} of 128");
        assert!(check_numbers(&modulus(3), &[3]).is_ok());
    }

    #[test]
    fn every_other_number_has_its_reason() {
        let long = [&[1], [0; 1024].as_slice(), &[1]].concat();
        let cases: [(&[u8], &[u8], &str); 13] = [
            (&modulus(2), E, "2 divides"),
            (&modulus(1), E, "3 divides"),
            (&modulus(3)[1..], E, "malformed"),
            (&[&[0], modulus(3).as_slice()].concat(), E, "malformed"),
            (&[0, 0xff], E, "RSA of 8 bits"),
            (&long, E, "RSA of 8201 bits"),
            (&[], E, "malformed"),
            (&[0], E, "malformed"),
            (&modulus(3), &[], "malformed"),
            (&modulus(3), &[0], "malformed"),
            (&modulus(3), &[1], "exponent"),
            (&modulus(3), &[1, 0, 0], "exponent"),
            (&modulus(3), &[4, 0, 0, 0, 1], "exponent"),
        ];
        for (modulus, exponent, reason) in cases {
            let refused = check_numbers(modulus, exponent).unwrap_err();
            assert!(refused.contains(reason), "{reason} is missing in {refused}");
        }
    }
}
