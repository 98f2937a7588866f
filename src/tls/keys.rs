//! Public keys that ring cannot verify signatures with. rustls reports that only when a certificate is
//! verified, and in bytes; the operator is warned when the settings are read.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The shortest RSA modulus that ring supports, in bits.
const RSA_BITS: usize = 2048;

/// `1.2.840.113549.1.1.1`, `1.2.840.10045.2.1`, and the curves that ring supports: P-256 and P-384.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const CURVES: [&[u8]; 2] =
    [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], &[0x2b, 0x81, 0x04, 0x00, 0x22]];
/// Ed25519.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Why signatures of this certificate's key cannot be verified; `None` if they can.
pub(super) fn uncheckable(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let info = certificate.subject_public_key_info();
    // RFC 5280, 4.1: SEQUENCE { SEQUENCE { OID, parameters }, BIT STRING }
    let (info, _) = element(info.as_ref())?;
    let (algorithm, rest) = element(info)?;
    let (key, _) = element(rest)?;
    let (kind, parameters) = element(algorithm)?;
    match kind {
        RSA => {
            // The bit string begins with how many bits are unused, and holds SEQUENCE { modulus, … }
            let (key, _) = element(key.get(1..)?)?;
            let (modulus, _) = element(key)?;
            let modulus =
                modulus.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &modulus[at..]);
            let bits =
                modulus.len() * 8 - modulus.first().map_or(0, |it| it.leading_zeros() as usize);
            (bits < RSA_BITS).then(|| format!("RSA with {bits} bits; the minimum is {RSA_BITS}"))
        }
        EC => {
            let (curve, _) = element(parameters)?;
            (!CURVES.contains(&curve))
                .then(|| "on an elliptic curve other than P-256 and P-384".into())
        }
        ED25519 => None,
        _ => Some("of a type other than RSA, ECDSA and Ed25519".into()),
    }
}

/// The content of the first DER element, and what follows it.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.get(1..)?.split_first()?;
    let (length, rest) = match usize::from(*length) {
        short @ ..0x80 => (short, rest),
        long => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            let length = digits.iter().try_fold(0_usize, |sum, digit| {
                sum.checked_mul(256).map(|sum| sum + usize::from(*digit))
            });
            (length?, rest)
        }
    };
    rest.split_at_checked(length)
}
