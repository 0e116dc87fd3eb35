<?php

namespace App;

use Illuminate\Support\Facades\Cookie;
use Illuminate\Support\Facades\Http;
use Illuminate\Support\Facades\Log;

/** What this application asks of Fanfare, and the tokens by which its users may subscribe. */
class Fanfare
{
    /** A JWT with HS256. With Composer, use firebase/php-jwt or lcobucci/jwt; Debian has no library for it. */
    public static function token(string $user): string
    {
        $now = time();
        $claims = ['sub' => "user-$user", 'iat' => $now, 'exp' => $now + config('fanfare.token_seconds'),
            'fanfare' => ['subscribe' => ["user-$user.*"]]];
        $encode = fn (string $bytes) => rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
        $signed = $encode('{"alg":"HS256","typ":"JWT"}') . '.' . $encode(json_encode($claims));

        return $signed . '.' . $encode(hash_hmac('sha256', $signed, config('fanfare.jwt_secret'), true));
    }

    /** Gives the browser a fresh token. It shows it to Fanfare too, since cookies do not depend on the port. */
    public static function setToken(string $user): void
    {
        Cookie::queue('fanfare_token', self::token($user), 0, '/', null, config('session.secure'), true, true, 'lax');
    }

    /** An order stays saved if it can't be published: pages get it with their next gap, or when they load. */
    public static function publish(string $topic, mixed $data): ?string
    {
        return self::ask(config('fanfare.publish_token'), 'post', '/publish', ['topic' => $topic, 'data' => $data]);
    }

    /** The id of the newest event: what is read from the database afterwards contains all events up to it. */
    public static function position(string $user, string $topic): ?string
    {
        return self::ask(self::token($user), 'get', '/dashboard/data', ['topic' => $topic]);
    }

    /** The id in the answer; null, and a line in the log, if there is no answer. */
    private static function ask(string $token, string $method, string $path, array $fields): ?string
    {
        try {
            return Http::withToken($token)->timeout(2)->$method(config('fanfare.url') . $path, $fields)->throw()->json('id');
        } catch (\Exception $error) {
            Log::error("Fanfare: $path: " . $error->getMessage());

            return null;
        }
    }
}
