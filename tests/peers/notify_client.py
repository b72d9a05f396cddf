"""GOV.UK Notify's own Python client against a server that says it is Notify; prints what it saw as JSON.

    notify_client.py send BASE_URL API_KEY EMAIL_TEMPLATE SMS_TEMPLATE LETTER_TEMPLATE
    notify_client.py get BASE_URL API_KEY ID
    notify_client.py all BASE_URL API_KEY [REFERENCE]
    notify_client.py token TOKEN SECRET

`send` sends one message each way and tries what must be refused. `token` checks a token as Notify does.
"""

import json
import sys

from notifications_python_client.authentication import decode_jwt_token, get_token_issuer
from notifications_python_client.errors import HTTPError
from notifications_python_client.notifications import NotificationsAPIClient


def refused(call):
    try:
        call()
    except HTTPError as error:
        return [error.status_code, error.message[0]["error"]]
    return "taken"


def send(client, base_url, key, email, sms, letter):
    said = {"service": "Clinic"}
    home = {"address_line_1": "A Parent", "address_line_2": "4 Lower Lane", "address_line_3": "SS1 1AA"}
    stranger = NotificationsAPIClient(key[:-1] + ("0" if key[-1] != "0" else "1"), base_url=base_url)
    return {
        "email": client.send_email_notification(
            "ife@family.example", email, said, reference="R1", sanitise_content_for=["service"]
        ),
        "sms": client.send_sms_notification("07700900123", sms, said, reference="R2"),
        "letter": client.send_letter_notification(letter, home, reference="R3"),
        "refused": {
            "key": refused(lambda: stranger.get_all_notifications()),
            "address": refused(lambda: client.send_email_notification("nobody", email, said)),
            "number": refused(lambda: client.send_sms_notification("077", sms, said)),
            "template": refused(lambda: client.send_sms_notification("07700900123", "none", said)),
            "kind": refused(lambda: client.send_sms_notification("07700900123", email, said)),
            "field": refused(lambda: client.send_email_notification("ife@family.example", email)),
            "home": refused(lambda: client.send_letter_notification(letter, {"address_line_1": "A Parent"})),
            "id": refused(lambda: client.get_notification_by_id("740e5834-3a29-46b4-9a6f-16142fde533a")),
        },
        "template": client.get_template(email),
    }


def main():
    act, *rest = sys.argv[1:]
    if act == "token":
        token, secret = rest
        print(json.dumps({"valid": decode_jwt_token(token, secret), "issuer": get_token_issuer(token)}))
        return
    base_url, key, *rest = rest
    client = NotificationsAPIClient(key, base_url=base_url)
    if act == "send":
        print(json.dumps(send(client, base_url, key, *rest)))
    elif act == "get":
        print(json.dumps(client.get_notification_by_id(rest[0])))
    elif act == "all":
        reference = rest[0] if rest else None
        print(json.dumps([one["id"] for one in client.get_all_notifications_iterator(reference=reference)]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
