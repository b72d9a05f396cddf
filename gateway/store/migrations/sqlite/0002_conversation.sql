-- The ids of the message that opened a referral, which its protocol wants repeated in every answer; sealed as a body.
ALTER TABLE referral ADD COLUMN conversation_body BLOB;
