"""Who can be chosen at the stand-in."""

PEOPLE = {
    "ada": {
        "givenname": "Ada",
        "surname": "Lovelace",
        "mail": "ada.lovelace@example.edu",
        "cn": "Ada Lovelace",
        "auedupersonsharedtoken": "stand-in-token-of-ada-00001",
    },
    "bjork": {
        "givenname": "Björk",
        "surname": "Guðmundsdóttir",
        "mail": "bjork@example.edu",
        "cn": "Björk Guðmundsdóttir",
        "auedupersonsharedtoken": "stand-in-token-of-bjork-002",
    },
    "mei": {
        "displayname": "美 王",
        "cn": "美 王",
        "mail": "mei.wang@example.edu",
        "auedupersonsharedtoken": "stand-in-token-of-mei-00003",
    },
    "admin": {
        "givenname": "Somebody",
        "surname": "Else",
        "mail": "admin@example.edu",
        "cn": "Somebody Else",
        "auedupersonsharedtoken": "stand-in-token-of-else-0004",
    },
}
