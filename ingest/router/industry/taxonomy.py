"""The sections and divisions of ISIC Rev. 4 (United Nations, Statistical Papers M/4/Rev.4)."""

SECTIONS = {
    "A": "Agriculture, forestry and fishing",
    "B": "Mining and quarrying",
    "C": "Manufacturing",
    "D": "Electricity, gas, steam and air conditioning supply",
    "E": "Water supply; sewerage, waste management and remediation activities",
    "F": "Construction",
    "G": "Wholesale and retail trade; repair of motor vehicles and motorcycles",
    "H": "Transportation and storage",
    "I": "Accommodation and food service activities",
    "J": "Information and communication",
    "K": "Financial and insurance activities",
    "L": "Real estate activities",
    "M": "Professional, scientific and technical activities",
    "N": "Administrative and support service activities",
    "O": "Public administration and defence; compulsory social security",
    "P": "Education",
    "Q": "Human health and social work activities",
    "R": "Arts, entertainment and recreation",
    "S": "Other service activities",
    "T": "Activities of households as employers; undifferentiated production for own use",
    "U": "Activities of extraterritorial organizations and bodies",
}

_DIVISIONS = """
A:01,02,03 B:05,06,07,08,09 C:10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33 D:35
E:36,37,38,39 F:41,42,43 G:45,46,47 H:49,50,51,52,53 I:55,56 J:58,59,60,61,62,63 K:64,65,66 L:68
M:69,70,71,72,73,74,75 N:77,78,79,80,81,82 O:84 P:85 Q:86,87,88 R:90,91,92,93 S:94,95,96 T:97,98 U:99
"""
# The section of each division.
DIVISIONS = {code: part[0] for part in _DIVISIONS.split() for code in part[2:].split(",")}


def section_of(code: str) -> str | None:
    """The section of `code`: a division's two digits, or a section's letter itself; None: no such code."""
    return code if code in SECTIONS else DIVISIONS.get(code)
